import pytest

from meowtea.rewards.success import Success
from meowtea.types import Outcome


def test_a_win_pays_on_the_last_turn(episode):
    assert Success(weight=2.0).per_turn(episode(Outcome.WON, scores=(0, 0, 1))) == [0, 0, 2.0]


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.OUT_OF_TURNS, Outcome.OUT_OF_TOKENS])
def test_nothing_else_pays(episode, outcome):
    """The full score is not a win: only the outcome says so."""
    assert Success(weight=1.0).per_turn(episode(outcome, scores=(0, 1))) == [0, 0]


def test_an_episode_without_turns(episode):
    assert Success(weight=1.0).per_turn(episode(Outcome.OUT_OF_TOKENS, scores=())) == []
