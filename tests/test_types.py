import json
import subprocess
import sys

from meowtea.types import Outcome, Task, Trajectory, Turn


def trajectory():
    turn = Turn([1, 2], [3, 4], [-0.1, -0.2], True, "You see a door.", "open door", "open door", valid_command=True)
    return Trajectory(
        Task("w2/1", "train", 1, {"rooms": 2}),
        0,
        [turn],
        Outcome.WON,
        1.0,
        1.0,
        rewards=[1.0],
        reward_parts={"won": [1.0]},
    )


def test_a_trajectory_survives_json():
    text = json.dumps(trajectory().to_json())
    assert Trajectory.from_json(json.loads(text)) == trajectory()
    assert Trajectory.from_json(json.loads(text)).outcome is Outcome.WON


def test_done_is_not_won():
    ended = {outcome for outcome in Outcome if outcome.terminal}
    assert ended == {Outcome.WON, Outcome.LOST}
    won = [outcome for outcome in Outcome if Trajectory(Task("a", "b", 0), 0, [], outcome, 0, 1).won]
    assert won == [Outcome.WON]


def test_broken_outcomes_say_nothing_about_the_policy():
    assert {outcome for outcome in Outcome if outcome.broken} == {Outcome.ENV_ERROR, Outcome.TIMEOUT}


def test_workers_can_import_types_without_torch():
    code = "import sys, meowtea.types, meowtea.envs.base; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
