"""All problems of a config at once, before anything heavy is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meowtea.config import GROUPS, KEYS
from meowtea.errors import ConfigError
from meowtea.signature import locate, node_problems, value_problems


def check(config: DictConfig, command: str = "train") -> None:
    """Raises ConfigError with every problem of the config of `command`."""
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key}: {str(error).splitlines()[0]}"]) from error
    assert isinstance(plain, dict)
    root = {str(name): value for name, value in plain.items()}
    problems: list[str] = []
    sound: set[str] = set()  # root keys without a problem of their own: only these are compared with each other
    for name in GROUPS[command]:
        found = _group_problems(name, root.get(name, "???"))
        problems += found
        sound |= set() if found else {name}
    for name, annotation in KEYS[command].items():
        found = value_problems(name, root.get(name, "???"), annotation)
        problems += found
        sound |= set() if found else {name}
    known = (*GROUPS[command], *KEYS[command])
    problems += [f"{name}: `meowtea {command}` has no such key" for name in root if name not in known]
    for compare in CROSS_CHECKS:
        needed = list(inspect.signature(compare).parameters)
        if sound.issuperset(needed):
            problems += compare(**{name: root[name] for name in needed})
    if problems:
        raise ConfigError(problems)


def _group_problems(name: str, node: Any) -> list[str]:
    if node == "???" or node is None:
        return [f"{name}: is not chosen; set {name}=<option>"]
    if not isinstance(node, dict) or "_target_" not in node:
        return [f"{name}: must be a node with _target_, as the files in conf/{name}/ are"]
    return node_problems(name, node)


def _option(node: dict[str, Any]) -> str:
    """A short name for a node: the module that its class is in."""
    return str(node["_target_"]).rsplit(".", 2)[-2]


def group_size(algorithm: dict[str, Any], rollout: dict[str, Any]) -> list[str]:
    """Group-relative algorithms compare the episodes of one game."""
    least = getattr(locate(algorithm["_target_"]), "min_group_size", 1)
    if rollout["group_size"] >= least:
        return []
    return [f"algorithm={_option(algorithm)} needs rollout.group_size >= {least}, got {rollout['group_size']}"]


def deterministic_engine(engine: dict[str, Any], deterministic: bool) -> list[str]:
    """Only the embedded engine promises the same tokens for the same seed, whatever the timing."""
    if deterministic and _option(engine) != "transformers":
        return [f"deterministic=true needs engine=transformers, got engine={_option(engine)}"]
    return []


CROSS_CHECKS: list[Callable[..., list[str]]] = [group_size, deterministic_engine]
