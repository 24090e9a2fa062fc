"""Who may import whom, and what nobody imports at the top of a module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "meowtea"
FILES = sorted(path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py"))

# layer -> the layers it may import from; modules at the top of the package are layers of their own
SHARED = {"types", "errors", "seeds", "stats", "__init__"}
ALLOWED = {
    "envs": {"envs"},
    "rewards": {"rewards"},
    "algorithms": {"algorithms", "batch"},
    "learner": {"learner", "algorithms", "batch"},
    "rollout": {"rollout", "envs"},
    "report": {"report"},
    "batch": set(),
    "types": set(),
    "errors": set(),
    "seeds": set(),
    "stats": set(),
}
LAZY = {"vllm", "ray", "wandb", "textworld", "alfworld"}


def runtime_imports(tree: ast.AST, top_level_only: bool = False) -> set[str]:
    """Modules imported when the code runs; those for type checkers alone do not count."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif not (top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            found |= runtime_imports(node, top_level_only)
    return found


@pytest.mark.parametrize("name", FILES)
def test_imports_follow_the_direction_of_the_layers(name):
    layer = Path(name).parts[1].removesuffix(".py")
    if layer not in ALLOWED:  # train, cli and the rest of the shell may import anything
        return
    imported = runtime_imports(ast.parse((PACKAGE.parent / name).read_text()))
    layers = {module.split(".")[1] for module in imported if module.startswith("meowtea.")}
    inside = {entry for entry in layers if (PACKAGE / entry).is_dir() or (PACKAGE / f"{entry}.py").is_file()}
    assert inside <= ALLOWED[layer] | SHARED


@pytest.mark.parametrize("name", FILES)
def test_optional_and_slow_libraries_are_imported_where_they_are_used(name):
    imported = runtime_imports(ast.parse((PACKAGE.parent / name).read_text()), top_level_only=True)
    assert not {module.split(".")[0] for module in imported} & LAZY


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith(("meowtea/envs/", "meowtea/rewards/"))])
def test_environments_and_rewards_do_without_torch(name):
    imported = runtime_imports(ast.parse((PACKAGE.parent / name).read_text()))
    assert "torch" not in {module.split(".")[0] for module in imported}
