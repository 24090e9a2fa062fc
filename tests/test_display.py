"""What a log file or a terminal shows."""

from __future__ import annotations

import io

from rich.console import Console

from meowtea.display import Display
from meowtea.types import Outcome, Task, Trajectory


def shown(terminal: bool, steps: int = 3) -> str:
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=terminal, width=100)) as display:
        with display.bar("test games") as bar:
            bar.to(1, 2)
            bar.to(2, 2)
        with display.stage("rl", steps) as stage:
            for step in range(1, steps + 1):
                display.episode(Trajectory(Task("t", "train", 1), 0, [], Outcome.WON, 1, 1))
                stage.update(step, {"rollout/success": 0.5, "budget/spent": 608.0, "other": 1.0})
        display.note("a [bold]note[/bold]")
    return text.getvalue()


def test_a_log_gets_one_short_line_per_step_and_no_control_characters():
    lines = shown(terminal=False).splitlines()
    assert [line for line in lines if line.startswith("rl ")] == [
        f"rl {step}/3: won 50%, spent 608, 0.0 min left" for step in (1, 2, 3)
    ]
    assert "\x1b" not in "".join(lines)


def test_notes_are_shown_as_they_are():
    assert "a [bold]note[/bold]" in shown(terminal=False)


def test_a_terminal_gets_bars_as_well():
    text = shown(terminal=True)
    assert "\x1b" in text and "rl 3/3: won 50%" in text
