import pytest

from meowtea.rewards.penalties import InvalidCommand, LongReply, PerTurn
from meowtea.types import Outcome


@pytest.mark.parametrize("outcome", [Outcome.WON, Outcome.LOST])
def test_invalid_commands(episode, outcome):
    played = episode(outcome, scores=(0, 0, 0), valid=[True, False, None])
    assert InvalidCommand(cost=0.1).per_turn(played) == [0, -0.1, 0]


@pytest.mark.parametrize("outcome", [Outcome.WON, Outcome.LOST])
def test_per_turn(episode, outcome):
    assert PerTurn(cost=0.01).per_turn(episode(outcome, scores=(0, 0, 0))) == [-0.01] * 3


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [(None, [0, 0, -0.1, 0]), (5, [0, 0, -0.1, -0.1]), (4, [0, -0.1, -0.1, -0.1]), (100, [0, 0, -0.1, 0])],
)
def test_long_replies(episode, max_tokens, expected):
    played = episode(Outcome.LOST, (0,) * 4, tokens=[4, 5, 5, 6], truncated=[False, False, True, False])
    assert LongReply(cost=0.1, max_tokens=max_tokens).per_turn(played) == expected
