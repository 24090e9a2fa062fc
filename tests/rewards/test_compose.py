import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowtea.errors import BatchError
from meowtea.rewards.compose import Sum
from meowtea.rewards.dense import Progress
from meowtea.rewards.penalties import InvalidCommand, PerTurn
from meowtea.rewards.success import Success
from meowtea.types import Outcome, Task, Trajectory, Turn


def all_terms():
    return {
        "success": Success(weight=1.0),
        "progress": Progress(weight=0.2),
        "invalid_command": InvalidCommand(cost=0.05),
        "per_turn": PerTurn(cost=0.01),
    }


def test_by_hand(episode):
    played = episode(Outcome.WON, scores=(0, 1), progress=[0.0, 0.5, 1.0], valid=[False, True])
    Sum(terms=all_terms()).score(played)
    assert played.reward_parts == {
        "success": [0, 1.0],
        "progress": [0.1, 0.1],
        "invalid_command": [-0.05, 0],
        "per_turn": [-0.01, -0.01],
    }
    assert played.rewards == pytest.approx([0.04, 1.09])


@given(
    steps=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([True, False, None])), max_size=12),
    start=st.floats(0, 1),
    outcome=st.sampled_from([outcome for outcome in Outcome if not outcome.broken]),
)
def test_parts_sum_to_the_rewards(steps, start, outcome):
    if not steps:
        outcome = Outcome.OUT_OF_TOKENS  # the only way to end before the first turn
    turns = [
        Turn([1], [2], [-0.5], True, "", "", "", progress=progress, valid_command=valid) for progress, valid in steps
    ]
    played = Trajectory(Task("t", "train", 0), 0, turns, outcome, 0.0, 1.0, initial_progress=start)
    Sum(terms=all_terms()).score(played)
    assert len(played.rewards) == len(turns)
    for k, reward in enumerate(played.rewards):
        assert reward == pytest.approx(sum(part[k] for part in played.reward_parts.values()))
    end = steps[-1][0] if steps else start
    invalid = sum(valid is False for _, valid in steps)
    expected = played.won + 0.2 * (end - start) - 0.05 * invalid - 0.01 * len(steps)
    assert sum(played.rewards) == pytest.approx(expected, abs=1e-9)


def test_a_win_and_a_loss_differ_by_the_success_alone(episode):
    won, lost = (episode(o, scores=(0, 1), progress=[0.0, 0.5, 1.0]) for o in (Outcome.WON, Outcome.LOST))
    for played in (won, lost):
        Sum(terms=all_terms()).score(played)
    assert [a - b for a, b in zip(won.rewards, lost.rewards, strict=True)] == pytest.approx([0, 1])


@pytest.mark.parametrize("outcome", [Outcome.ENV_ERROR, Outcome.TIMEOUT])
def test_broken_episodes_are_never_scored(episode, outcome):
    broken = episode(outcome)
    with pytest.raises(BatchError, match="broke"):
        Sum(terms=all_terms()).score(broken)
    assert broken.rewards == []
