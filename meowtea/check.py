"""All problems of a config at once, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meowtea.config import GROUPS, KEYS
from meowtea.crosschecks import cross_problems, ineffective
from meowtea.errors import ConfigError
from meowtea.signature import node_problems, value_problems


def check(config: DictConfig, command: str = "train", overrides: Sequence[str] = ()) -> None:
    """Raises ConfigError with every problem of the config of `command`.

    overrides: what was given on the command line; such keys must have an effect. Leave them out in a sweep, where
    a key may serve some jobs only.
    """
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
    problems += cross_problems(root, sound)
    problems += ineffective(root, sound, overrides)
    if problems:
        raise ConfigError(problems)


def _group_problems(name: str, node: Any) -> list[str]:
    if node == "???" or node is None:
        return [f"{name}: is not chosen; set {name}=<option>"]
    if not isinstance(node, dict) or "_target_" not in node:
        return [f"{name}: must be a node with _target_, as the files in conf/{name}/ are"]
    return node_problems(name, node)
