"""The end of a run in one table and one picture, read from the files of its directory alone. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line; a last line cut by a crash is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def result_rows(folder: Path) -> list[list[str]]:
    """One row per reported evaluation, as HEADER names its cells."""
    rows = []
    for line in read_json_lines(folder / "evaluations.jsonl"):
        if line["kind"] != "test":
            continue
        rows.append(
            [
                line["label"],
                f"{line['episodes']} {line['split']}",
                percent(line["success"]),
                f"{percent(line['low'])} to {percent(line['high'])}",
                f"{line['score']:.2f}",
                f"{line['turns']:.1f}",
                percent(line["invalid_share"]),
                f"{line['minutes']:.1f}",
            ]
        )
    return rows


HEADER = ["policy", "episodes", "success", "95% interval", "score", "turns", "invalid commands", "minutes"]


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def print_results(folder: Path, title: str) -> None:
    """The table on the terminal, and where the files are."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADER, title=title)
    for row in result_rows(folder):
        table.add_row(*row)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"everything is in {folder}", highlight=False, markup=False)


def write_summary(folder: Path, title: str) -> str:
    """Write report.md, learning.png and learning.svg into a run directory; returns the Markdown table."""
    table = markdown_table(HEADER, result_rows(folder))
    plot(folder, title)
    (folder / "report.md").write_text(f"# {title}\n\n{table}\n![learning curve](learning.png)\n", encoding="utf-8")
    return table


def plot(folder: Path, title: str) -> None:
    """Success over steps: training episodes, validation and test panels with intervals. SFT and RL are shaded apart."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    metrics = read_json_lines(folder / "metrics.jsonl")
    evaluations = read_json_lines(folder / "evaluations.jsonl")
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    training = [(m["step"], 100 * m["rollout/success"]) for m in metrics if "rollout/success" in m]
    first_rl = training[0][0] if training else None
    if first_rl is not None:
        axis.axvspan(0, first_rl - 0.5, color="#f2f2f2", zorder=0)
        inside: dict[str, Any] = {
            "transform": axis.get_xaxis_transform(),
            "fontsize": 9,
            "color": "#555555",
            "va": "top",
        }
        axis.text(0.3, 0.97, "SFT", **inside)
        axis.text(first_rl - 0.2, 0.97, "RL", **inside)
        axis.plot(*zip(*training, strict=True), color="#999999", lw=1, label="training episodes")
    for kind, color, marker in (("validation", "#0072b2", "o"), ("test", "#d55e00", "D")):
        points = [e for e in evaluations if e["kind"] == kind]
        if points:
            y = [100 * e["success"] for e in points]
            # at 0% and 100% an end of the interval is the rate itself, give or take rounding
            below = [100 * max(0.0, e["success"] - e["low"]) for e in points]
            above = [100 * max(0.0, e["high"] - e["success"]) for e in points]
            label = f"{kind} games ({points[0]['episodes']}, 95% interval)"
            x = [e["step"] for e in points]
            axis.errorbar(x, y, yerr=[below, above], color=color, marker=marker, capsize=3, lw=1.5, label=label)
    axis.set(xlabel="optimizer step (SFT) and RL step", ylabel="episodes won (%)", ylim=(-2, 106), title=title)
    axis.set_yticks(range(0, 101, 20))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=9)
    for suffix in ("png", "svg"):
        figure.savefig(folder / f".learning.{suffix}", format=suffix, dpi=130)
        (folder / f".learning.{suffix}").replace(folder / f"learning.{suffix}")
    plt.close(figure)
