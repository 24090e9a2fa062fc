"""What a command may be told: root keys and groups, where the YAML files lie, and how they are put together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen
from omegaconf import MISSING, DictConfig, OmegaConf

from meowtea.errors import ConfigError

Split = Literal["train", "demo", "validation", "test"]

# Keys, and groups with all their keys, that cannot change a result but for rounding: a run goes on when they differ,
# and its name does not tell them.
NEUTRAL = (
    *("name", "output_dir", "tracking", "checkpoint", "env_pool", "run", "hydra"),
    *("env.cache_dir", "env.workers", "rollout.concurrency"),
    *("learner.threads", "learner.max_tokens_per_microbatch", "learner.gradient_checkpointing"),
    "learner.offload_reference",
)


def is_neutral(key: str) -> bool:
    """Whether a dotted key is in NEUTRAL or below one that is."""
    return any(key == neutral or key.startswith(f"{neutral}.") for neutral in NEUTRAL)


# The config groups of each command: each root key holds the node of one option.
GROUPS: dict[str, tuple[str, ...]] = {
    "train": (
        *("model", "env", "env_pool", "prompt", "reward", "algorithm", "budget", "engine"),
        *("rollout", "sft", "learner", "evaluation", "tracking", "checkpoint"),
    ),
    "eval": ("model", "env", "env_pool", "prompt", "engine", "rollout", "evaluation"),
    "play": ("model", "env", "env_pool", "prompt", "engine", "rollout", "evaluation"),
    "games": ("env", "env_pool"),
}

# The root keys of each command that hold a value; defaults and meanings are in conf/<command>.yaml.
_REPEATABLE = {"output_dir": str, "seed": Annotated[int, Ge(0)], "deterministic": bool}
_POLICY = {"run": str | None, "checkpoint": str | None}
_PLAYED = {"player": Literal["person", "policy", "expert"], "split": Split, "task": Annotated[int, Ge(0)]}
_MADE = {"splits": Annotated[list[Split], MinLen(1)], "count": Annotated[int, Ge(1)], "validate": bool}
KEYS: dict[str, dict[str, Any]] = {
    "train": {"name": str | None, **_REPEATABLE},
    "eval": {**_POLICY, "name": str | None, **_REPEATABLE},
    "play": {**_PLAYED, **_POLICY, **_REPEATABLE},
    "games": {**_MADE, "output_dir": str},
}


def conf_dir() -> Path:
    """The shipped YAML files: package data of an installed wheel, else conf/ of the source tree."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError([f"conf: no folder with train.yaml in {package} or beside it; install meowtea again"])


def options(group_name: str, folders: Sequence[Path]) -> list[str]:
    """Options of a group: its YAML files, as they are written after `group=`. Empty if there is no such group."""
    found = {
        path.relative_to(folder / group_name).with_suffix("").as_posix()
        for folder in folders
        for path in (folder / group_name).glob("**/*.yaml")
    }
    return sorted(found)


def register_schemas() -> None:
    """Make the root schemas known to Hydra, which then rejects unknown root keys."""
    from hydra.core.config_store import ConfigStore

    for command in KEYS:
        entries = [(name, Any, MISSING) for name in (*GROUPS[command], *KEYS[command])]
        schema = make_dataclass(f"{command.title()}Config", entries)
        ConfigStore.instance().store(name=f"{command}_schema", node=schema)


def load_run_config(folder: str | Path) -> DictConfig:
    """The config a run was started with."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise ConfigError([f"run: '{folder}' is not the folder of a run: it has no config.yaml"])
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def overrides_from_run(command: str, folder: str | Path) -> list[str]:
    """Offer the nodes of a run's config as the option `from_run` of each group; the overrides that choose them."""
    from hydra.core.config_store import ConfigStore

    config = load_run_config(folder)
    known = [name for name in GROUPS[command] if name in config]
    for name in known:
        ConfigStore.instance().store(group=name, name="from_run", node=OmegaConf.to_container(config[name]))
    return [
        *(f"{name}=from_run" for name in known),
        *(f"{name}={str(config[name]).lower()}" for name in ("seed", "deterministic") if name in config),
    ]


def compose(command: str = "train", overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a command line, from code: `compose('train', ['env=textworld/w2-o3-q4', 'seed=2'])`."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from meowtea.overrides import prepare

    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="meowtea"):
        return hydra_compose(command, prepare(command, overrides, [conf_dir()]))


def run_name(choices: Mapping[str, str | None], overrides: Sequence[str], config: DictConfig) -> str:
    """A folder name that the same command line finds again.

    An experiment's name, else the choices that tell runs apart; then the seed; then whatever else was overridden.
    """
    experiment = choices.get("experiment")
    heads = ("experiment",) if experiment else ("env", "algorithm", "reward", "budget", "model")
    parts = [str(choices[head]) for head in heads if choices.get(head)]
    return _name([*parts, f"s{config.seed}"], {*heads, "seed"}, overrides)


def result_name(choices: Mapping[str, str | None], overrides: Sequence[str], config: DictConfig) -> str:
    """The same for an evaluation: where, what (unless it is the run whose folder it goes to), the seed, the rest."""
    parts = [str(choices[head]) for head in ("env", "model") if choices.get(head) not in (None, "from_run")]
    if config.checkpoint is not None:
        parts.append(config.checkpoint)
    told = {*GROUPS["eval"], "seed", "deterministic"}
    return _name([*parts, config.evaluation.split, f"s{config.seed}"], told, overrides)


def _name(parts: Sequence[str], told: set[str], overrides: Sequence[str]) -> str:
    """Parts, then the overrides of keys not yet told; short enough for a folder."""
    extra = []
    for override in overrides:
        name, _, value = override.lstrip("+").partition("=")
        if name not in told and not is_neutral(name.replace("/", ".")):
            extra.append(f"{name}-{value}")
    clean = "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part).strip("-") for part in [*parts, *sorted(extra)])
    if len(clean) <= 120:
        return clean
    return f"{clean[:100]}_{blake2b(clean.encode(), digest_size=4).hexdigest()}"
