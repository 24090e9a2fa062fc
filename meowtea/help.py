"""The texts of `--help`, made from the YAML files and their comments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meowtea.errors import ConfigError

GROUP_LINE = re.compile(r"^  - (?P<name>\w+): (?P<value>\S+)\s+# (?P<meaning>.+)$")
KEY_LINE = re.compile(r"^(?P<name>\w+):(?: (?P<value>\S.*?))?\s+# (?P<meaning>.+)$")
EXAMPLES = {
    "train": [
        "meowtea train experiment=quickstart",
        "meowtea train algorithm=rloo reward=dense learner.lr=2e-5",
        "meowtea train --multirun budget=sft100_rl0,sft60_rl400,sft0_rl1000 seed=1,2,3",
    ],
    "eval": [
        "meowtea eval run=outputs/<run> env=textworld/w4-o6-q8",
        "meowtea eval model=qwen2.5-0.5b evaluation.tasks=50 evaluation.temperature=0",
    ],
    "play": ["meowtea play env=textworld/w4-o6-q8", "meowtea play player=policy run=outputs/<run>"],
    "check": ["meowtea check algorithm=grpo rollout.group_size=1"],
    "games": ["meowtea games env=textworld/w8-o12-q4 splits=[train,test] count=500"],
}


def overview(commands: Mapping[str, str]) -> str:
    """`meowtea --help`."""
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {meaning}" for name, meaning in commands.items()]
    return "\n".join(
        [
            "Multi-turn reinforcement learning for LLM agents in text environments.",
            "",
            "usage: meowtea <command> [key=value ...] [--multirun] [--cfg job]",
            "",
            *lines,
            "",
            "`meowtea <command> --help` lists the config groups, their options and the keys of a command;",
            "`meowtea <command> --help <group>=<option>` shows the keys of an option with their meanings.",
            'Shell completion: eval "$(meowtea --shell-completion install=bash)" (or zsh, fish).',
        ]
    )


def command_help(command: str, meaning: str, topics: Sequence[str] = ()) -> str:
    """`meowtea <command> --help`, or with topics (`learner`, `algorithm=ppo`) the files of those groups."""
    folder = _conf_dir()
    if topics:
        return "\n\n".join(text for topic in topics for text in _topic(folder, topic))
    path = folder / f"{'train' if command == 'check' else command}.yaml"
    lines = path.read_text().splitlines()
    groups = [match.groupdict() for line in lines if (match := GROUP_LINE.match(line))]
    keys = [match.groupdict() for line in lines if (match := KEY_LINE.match(line))]
    extra = [] if command not in ("train", "check") else _extra_groups(folder, [group["name"] for group in groups])
    text = [meaning, "", f"usage: meowtea {command} [group=option ...] [key=value ...] [--multirun] [--cfg job]"]
    text += ["       --config-dir <folder> adds config files of your own", "", "groups (the default is in brackets)"]
    for group in groups:
        text.append(f"  {group['name']:<12} {group['meaning']} [{group['value']}]")
        text += _wrapped(_options(folder, group["name"]))
        for sub in _sub_groups(folder, group["name"]):
            text += _wrapped([f"{sub}:", *_options(folder, sub)])
    for name in extra:
        text.append(f"  {name:<12} overrides that belong together; none by default")
        text += _wrapped(_options(folder, name))
    text += ["", "keys (the default is in brackets)"]
    text += [f"  {key['name']:<14} {key['meaning']}" + (f" [{key['value']}]" if key["value"] else "") for key in keys]
    text += ["", "examples", *(f"  {example}" for example in EXAMPLES[command])]
    return "\n".join(text)


def summary(config: Any, choices: Mapping[str, str | None], name: str) -> str:
    """What `meowtea check` says of a config without problems."""
    from meowtea.config import GROUPS

    chosen = ", ".join(f"{group}={choices[group]}" for group in GROUPS["train"] if choices.get(group))
    return f"config is fine\n  {chosen}\n  seed {config.seed}; the run's folder is {config.output_dir}/{name}"


def _conf_dir() -> Path:
    from meowtea.config import conf_dir

    return conf_dir()


def _topic(folder: Path, topic: str) -> list[str]:
    name, _, option = topic.partition("=")
    paths = sorted((folder / name).glob(f"{option}.yaml" if option else "**/*.yaml"))
    if not paths:
        raise ConfigError([f"{topic}: no such {'option' if option else 'group'}; --help alone lists them"])
    return [f"{name}={path.relative_to(folder / name).with_suffix('')}\n{path.read_text().rstrip()}" for path in paths]


def _sub_groups(folder: Path, group: str) -> list[str]:
    """Folders inside a group that its options choose from, as algorithm/kl is: `- kl: fixed` in a defaults list."""
    texts = [path.read_text() for path in (folder / group).glob("*.yaml")]
    names = [path.name for path in sorted((folder / group).glob("*/"))]
    return [
        f"{group}/{name}" for name in names if any(re.search(rf"^\s*- {name}(@\S+)?:", text, re.M) for text in texts)
    ]


def _options(folder: Path, group: str) -> list[str]:
    inner = tuple(f"{sub}/" for sub in _sub_groups(folder, group))
    paths = [path.relative_to(folder).as_posix() for path in (folder / group).glob("**/*.yaml")]
    names = [
        path.removesuffix(".yaml").removeprefix(f"{group}/") for path in paths if not path.startswith(inner or "\0")
    ]
    return sorted(names)


def _extra_groups(folder: Path, known: Sequence[str]) -> list[str]:
    """Groups a command has no default for, such as experiment and debug."""
    return sorted(
        p.name for p in folder.iterdir() if p.is_dir() and p.name not in (*known, "hydra") and any(p.iterdir())
    )


def _wrapped(words: Sequence[str], width: int = 100) -> list[str]:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += ("  " if lines[-1] else "") + word
    return [f"{'':15}{line}" for line in lines]
