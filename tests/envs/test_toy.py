import pytest
from environment_contract import EnvironmentContract

from meowtea.envs.toy import Toy
from meowtea.types import Outcome


class TestToy(EnvironmentContract):
    @pytest.fixture
    def environment(self, toy_of):
        return toy_of()


def test_the_wrong_door_loses_and_done_is_not_won(toy_of):
    toy = toy_of()
    env = toy.make_env()
    task = toy.tasks("train", 1)[0]
    env.reset(task)
    *way, right = env.walkthrough()
    wrong = next(f"open {colour} door" for colour in ("red", "blue") if f"open {colour} door" != right)
    for command in way:
        env.step(command)
    step = env.step(wrong)
    assert step.outcome is Outcome.LOST
    assert step.progress == 0.0 and step.score < step.max_score


def test_every_seed_can_be_won_within_the_turns(toy_of):
    toy = toy_of()
    env = toy.make_env()
    for task in toy.tasks("train", 200):
        progress = [env.reset(task).progress]
        progress += [env.step(command).progress for command in env.walkthrough()]
        assert 3 <= len(progress) <= toy.max_turns + 1
        assert progress == sorted(progress) and len(set(progress)) == len(progress)


def test_counting_faults_needs_a_folder():
    keys = {"rooms": 3, "max_turns": 9, "hints": "none", "fault": "kill", "fault_turn": 1, "fault_folder": None}
    assert Toy.problems(**keys, fault_times=1)[0].startswith("fault_folder:")
    assert Toy.problems(**keys, fault_times=None) == []
