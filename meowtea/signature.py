"""A config node against the constructor its `_target_` names: keys, types, ranges. Imports nothing heavy."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from meowtea.overrides import did_you_mean

HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")


def locate(target: str) -> Callable[..., Any] | None:
    """The class or function at a dotted path, or None if there is none."""
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError):
        return None
    found = getattr(module, name, None)
    return found if callable(found) else None


def node_problems(path: str, node: dict[str, Any]) -> list[str]:
    """Every problem of one node (plain containers) and of the nodes inside it, each starting with its key."""
    target = node.get("_target_")
    if target is None:
        return nested_problems(path, node)
    constructor = locate(target) if isinstance(target, str) else None
    if constructor is None:
        return [f"{path}._target_: cannot import '{target}'"]
    parameters = inspect.signature(constructor).parameters
    keyword_only = {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
    problems = []
    for name, value in given.items():
        if name not in keyword_only:
            if not open_ended:
                problems.append(f"{path}.{name}: {_no_such_key(constructor, name, parameters)}")
        elif value == "???":
            problems.append(f"{path}.{name}: has no default; set {path}.{name}=...")
        elif _has_target(value):
            problems += nested_problems(f"{path}.{name}", value)
        else:
            annotation = resolve_annotation(constructor, keyword_only[name].annotation)
            problems += value_problems(f"{path}.{name}", value, annotation)
    for name, parameter in keyword_only.items():
        if name not in given and parameter.default is parameter.empty:
            problems.append(f"{path}.{name}: is missing; {constructor.__name__} needs it")
    own_check = getattr(constructor, "problems", None)
    if not problems and own_check is not None:
        problems += [f"{path}.{problem}" for problem in own_check(**given)]
    return problems


def nested_problems(path: str, value: Any) -> list[str]:
    """Problems of the nodes somewhere inside a list or mapping."""
    if isinstance(value, dict) and "_target_" in value:
        return node_problems(path, value)
    if isinstance(value, dict):
        return [p for name, item in value.items() for p in nested_problems(f"{path}.{name}", item)]
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in nested_problems(f"{path}[{i}]", item)]
    return []


def value_problems(path: str, value: Any, annotation: Any) -> list[str]:
    """Problems of one value against an annotation such as Annotated[int, Ge(1)], read strictly (no '3' for 3)."""
    if annotation is inspect.Parameter.empty or annotation is Any:
        return []
    if value == "???":
        return [f"{path}: has no default; set {path}=..."]
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # types that carry a config of their own take none from here
        adapter = TypeAdapter(annotation)
    try:
        # JSON, because there a list may be a tuple and a string a path or an enum even when strict
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return [f"{path}{message}" for message in _messages(error, value, annotation)]
    return []


def resolve_annotation(constructor: Callable[..., Any], annotation: Any) -> Any:
    """The type behind one annotation. One by one: others of the signature may name types only mypy imports."""
    if not isinstance(annotation, str):
        return annotation
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    namespace = getattr(function, "__globals__", None) or vars(sys.modules[constructor.__module__])
    return eval(annotation, namespace)


def _no_such_key(constructor: Callable[..., Any], name: str, parameters: Any) -> str:
    if name in parameters:
        return f"{constructor.__name__} takes it by position; config keys are keyword-only arguments (after a `*`)"
    allowed = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    hint = did_you_mean(name, allowed)
    if not hint:
        hint = f"; it has {', '.join(allowed)}" if allowed else "; it has none"
    return f"{constructor.__name__} has no such option{hint}"


def _has_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_has_target, value.values()))
    return isinstance(value, list) and any(map(_has_target, value))


def _messages(error: ValidationError, value: Any, annotation: Any) -> list[str]:
    """Pydantic's findings in our words: one line per place, alternatives of a union joined by 'or'."""
    reasons: dict[str, list[str]] = {}
    inputs: dict[str, Any] = {}
    for entry in error.errors(include_url=False):
        place = _place(value, entry["loc"])
        text = entry["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)
        text = text.replace("be a valid ", "be a ").replace("a integer", "an integer")
        inputs[place] = entry["input"]
        if entry["type"] != "none_required" and text not in reasons.setdefault(place, []):
            reasons[place].append(text)
    lines = []
    for place, texts in reasons.items():
        if not place and type(None) in get_args(annotation):
            texts.append("null")
        hint = did_you_mean(str(inputs[place]), _literals(annotation)) if isinstance(inputs[place], str) else ""
        lines.append(f"{place}: {' or '.join(texts)}, got {show(inputs[place])}{hint}")
    return lines


def _place(value: Any, loc: tuple[Any, ...]) -> str:
    """The part of pydantic's location that is about the value; the rest names branches of a union."""
    place = ""
    for step in loc:
        if isinstance(value, list) and isinstance(step, int) and step < len(value):
            place, value = f"{place}[{step}]", value[step]
        elif isinstance(value, dict) and step in value:
            place, value = f"{place}.{step}", value[step]
    return place


def _literals(annotation: Any) -> list[str]:
    """The strings that Literal parts of an annotation allow."""
    if get_origin(annotation) is Literal:
        return [option for option in get_args(annotation) if isinstance(option, str)]
    return [text for part in get_args(annotation) for text in _literals(part)]


def show(value: Any) -> str:
    """A config value as the user would write it, shortened."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
