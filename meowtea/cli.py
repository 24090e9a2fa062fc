"""The command line: find the command, compose its config with Hydra, check it, call it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from meowtea import __version__
from meowtea.errors import ConfigError, MeowteaError

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMANDS = {
    "train": "supervised warm-up, reinforcement learning and evaluation, from one config; goes on where it stopped",
    "eval": "evaluate a run, a checkpoint or any model, on any environment",
    "play": "one episode on the terminal, played by you or by a policy",
    "check": "every problem of a training config at once, without running it",
    "games": "make the games of an environment ahead of time and prove that each can be won",
}
SIGNALLED = 128  # exit status of a program ended by signal n: this plus n
INTERRUPTED = 130  # exit status of a program ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `meowtea` and `python -m meowtea`. Exit status: 0 done, 1 a problem told on stderr,
    2 no such command, 128 + n stopped by signal n (after saving)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_dispatch(words))
    except MeowteaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _dispatch(words: list[str]) -> int:
    if words and words[0] in ("-sc", "--shell-completion"):
        return _complete(words)
    if not words or words[0] in ("-h", "--help", "help"):
        from meowtea.help import overview

        print(overview(COMMANDS))
        return 0
    if words[0] == "--version":
        print(f"meowtea {__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        from meowtea.overrides import did_you_mean

        hint = did_you_mean(command, COMMANDS)
        print(f"meowtea: no command '{command}'{hint} (commands: {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    if "--help" in rest or "-h" in rest:
        from meowtea.help import command_help

        topics = [word for word in rest if word not in ("--help", "-h")]
        print(command_help(command, COMMANDS[command], topics))
        return 0
    return _run_hydra(command, rest)


def _run_hydra(command: str, words: list[str]) -> int:
    """Compose (Hydra does the overrides, sweeps and --cfg) and call the command, once per job of a sweep."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from meowtea.config import conf_dir, register_schemas
    from meowtea.overrides import prepare

    if not sys.stderr.isatty():  # bars of transformers would fill log files with control characters
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    config_name = "train" if command == "check" else command
    flags, overrides = _split(words)
    if "-sc" not in flags and "--shell-completion" not in flags:
        overrides = prepare(config_name, overrides, [*_config_dirs(flags), conf_dir()])
    register_schemas()
    sys.argv = ["meowtea", *flags, *overrides]
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"  # the user wants tracebacks
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors its own way and exits
    statuses: list[int] = []

    def job(config: DictConfig) -> None:
        statuses.append(_run_job(command, config))

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)()
    except (HydraException, OmegaConfBaseException) as error:
        if full_error:
            raise
        raise ConfigError([_plain(error)]) from error
    return max(statuses, default=0)


def _run_job(command: str, config: DictConfig) -> int:
    """One job, its problems told at once: in a sweep the others go on."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from meowtea.check import check

    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    if sweeping:
        print(f"job {hydra_config.job.num}: {hydra_config.job.override_dirname}", file=sys.stderr)
    try:
        told = [] if sweeping else list(hydra_config.overrides.task)
        check(config, "train" if command == "check" else command, told)
        status = TASKS[command](config)
    except MeowteaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if sweeping and status > SIGNALLED:
        sys.exit(status)  # whoever stopped this job did not mean the next one to begin
    return status


def _train(config: DictConfig) -> int:
    from hydra.core.hydra_config import HydraConfig

    from meowtea.config import run_name
    from meowtea.run import Run

    if config.name is None:
        composed = HydraConfig.get()
        config.name = run_name(dict(composed.runtime.choices), list(composed.overrides.task), config)
    with Run.open(config) as run:
        from meowtea.train.main import train

        train(config, run)
        return 128 + run.stop_signal if run.stop_requested and not run.finished else 0


def _evaluate(config: DictConfig) -> int:
    from hydra.core.hydra_config import HydraConfig

    from meowtea.config import result_name

    composed = HydraConfig.get()
    if config.name is None:
        config.name = result_name(dict(composed.runtime.choices), list(composed.overrides.task), config)
    from meowtea.train.main import evaluate

    evaluate(config)
    return 0


def _play(config: DictConfig) -> int:
    from meowtea.train.play import play

    play(config)
    return 0


def _games(config: DictConfig) -> int:
    from meowtea.train.games import games

    games(config)
    return 0


def _check(config: DictConfig) -> int:
    from hydra.core.hydra_config import HydraConfig

    from meowtea.config import run_name
    from meowtea.help import summary

    composed = HydraConfig.get()
    choices = dict(composed.runtime.choices)
    name = config.name or run_name(choices, list(composed.overrides.task), config)
    print(summary(config, choices, name))
    return 0


TASKS: dict[str, Callable[[Any], int]] = {
    "train": _train,
    "eval": _evaluate,
    "play": _play,
    "check": _check,
    "games": _games,
}


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and overrides: Hydra's parser wants all overrides side by side."""
    flags: list[str] = []
    overrides: list[str] = []
    takes_value = False
    for word in words:
        if word.startswith("-") or (takes_value and "=" not in word):
            flags.append(word)
        else:
            overrides.append(word)
        takes_value = word in ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp") or (
            word in ("--config-name", "-cn", "--info", "-i", "--experimental-rerun")
        )
    return flags, overrides


def _config_dirs(flags: Sequence[str]) -> list[Path]:
    """The folder a user adds with --config-dir."""
    for i, flag in enumerate(flags):
        name, _, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            folder = Path(value or (flags[i + 1] if i + 1 < len(flags) else ""))
            if not folder.is_dir():
                raise ConfigError([f"--config-dir: there is no folder '{folder}'"])
            return [folder]
    return []


def _plain(error: Exception) -> str:
    """Hydra's message on one line, the cause included where it says more, the search path left out."""
    texts = [str(cause).partition("\nConfig search path")[0] for cause in (error, error.__cause__) if cause]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    told = [
        line for line in lines if line and not line.startswith(("full_key:", "object_type=", "Set the environment"))
    ]
    return " ".join(dict.fromkeys(told))


def _complete(words: list[str]) -> int:
    """Shell completion. The shell asks `meowtea -sc query=…` with the line so far in COMP_LINE."""
    line = os.environ.get("COMP_LINE", "")
    typed = line.split()
    if any(word.startswith("query=") for word in words):
        if len(typed) < 2 or (len(typed) == 2 and not line.endswith(" ")):
            start = typed[1] if len(typed) == 2 else ""
            print(" ".join(name for name in COMMANDS if name.startswith(start)))
            return 0
        command = typed[1]
        if command not in COMMANDS:
            return 0
        os.environ["COMP_LINE"] = line.replace(f" {command}", "", 1)
        return _run_hydra(command, words)
    return _run_hydra("train", words)
