"""The wheel: everything a command needs is in it, and an installed package works from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs. Built from a copy: building leaves files behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("meowtea", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(source)]
    subprocess.run(command, check=True, timeout=280)
    [wheel] = target.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_every_config_file(installed):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "meowtea").rglob("*.py")}
    files = {f"meowtea/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    held = {path.relative_to(installed).as_posix() for path in (installed / "meowtea").rglob("*") if path.is_file()}
    assert held == modules | files


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["check", "experiment=quickstart"]])
def test_an_installed_package_works_from_any_folder(installed, tmp_path, words):
    done = subprocess.run(
        [sys.executable, "-m", "meowtea", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
