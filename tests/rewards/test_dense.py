import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowtea.errors import ConfigError
from meowtea.rewards.dense import Progress, Score, differences
from meowtea.types import Outcome

ENDED = [Outcome.WON, Outcome.LOST, Outcome.OUT_OF_TURNS]


@pytest.mark.parametrize("outcome", ENDED)
def test_score_by_hand_however_the_game_ended(episode, outcome):
    """2 of 8 points, none, 5 more, 1 lost again: one divisor for all outcomes."""
    played = episode(outcome, scores=(2, 2, 7, 6), max_score=8)
    assert Score(weight=1.0).per_turn(played) == [0.25, 0, 0.625, -0.125]
    assert Score(weight=0.5).per_turn(played) == [0.125, 0, 0.3125, -0.0625]


@pytest.mark.parametrize("outcome", ENDED)
def test_progress_by_hand_however_the_game_ended(episode, outcome):
    played = episode(outcome, scores=(0, 0, 0), progress=[0.25, 0.5, 0.25, 1.0])
    assert Progress(weight=0.2).per_turn(played) == pytest.approx([0.05, -0.05, 0.15])


def test_take_and_put_back_earns_nothing(episode):
    loop = episode(Outcome.OUT_OF_TURNS, scores=(0,) * 4, progress=[0.5, 0.75, 0.5, 0.75, 0.5])
    assert sum(Progress(weight=1.0).per_turn(loop)) == 0


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_differences_telescope(values):
    assert len(differences(values)) == len(values) - 1
    assert sum(differences(values)) == pytest.approx(values[-1] - values[0], abs=1e-6)


def test_an_environment_without_progress(episode):
    with pytest.raises(ConfigError, match=r"game-1.*reward=sparse"):
        Progress(weight=1.0).per_turn(episode(Outcome.LOST))
