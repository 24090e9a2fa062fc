"""Every command the README shows composes and has no problem; every file it links to is there."""

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from meowtea.check import check
from meowtea.config import compose

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("meowtea ")]
FAILING = "check algorithm=grpo rollout.group_size=1"  # shown because it has a problem


def overrides_of(line):
    """Overrides of a command line; of a sweep its first job."""
    words = [word for word in shlex.split(line, comments=True)[2:] if word != "--multirun"]
    sweep = "--multirun" in line
    return [re.sub(r"=([^\[,]*),.*", r"=\1", word) if sweep else word for word in words]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_composes_and_has_no_problem(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in re.findall(r"run=(\S+)", line):
        Path(folder).mkdir(parents=True)
        OmegaConf.save(compose("train", ["experiment=quickstart"]), Path(folder) / "config.yaml")
    command = line.split()[1]
    if FAILING in line:
        with pytest.raises(Exception, match=r"group_size"):
            check(compose("train", overrides_of(line)))
        return
    schema = "train" if command == "check" else command
    check(compose(schema, overrides_of(line)), schema)


def test_the_two_commands_exist_and_are_executable():
    for name in ("scripts/quickstart", "scripts/test"):
        assert name in README
        assert (ROOT / name).stat().st_mode & 0o100


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_link_leads_to_a_file(target):
    assert (ROOT / target).exists()
