import pytest

from meowtea.train.evaluate import Evaluation
from meowtea.types import Outcome, Task, Trajectory, Turn


def episode(task, outcome, score=0.0, valid=(True, False)):
    turns = [Turn([1], [2, 3], [0.0, 0.0], k == 0, "", "", "", valid_command=v) for k, v in enumerate(valid)]
    return Trajectory(Task(task, "test", 1), 0, turns, outcome, score, 2.0)


def test_shares_are_of_episodes_that_did_not_break():
    played = [
        episode("a", Outcome.WON, 2.0),
        episode("b", Outcome.LOST, 1.0, valid=(True, True, None)),
        episode("c", Outcome.OUT_OF_TURNS),
        episode("d", Outcome.ENV_ERROR),
        episode("e", Outcome.TIMEOUT),
    ]
    result = Evaluation.of("x", "test", played)
    assert (result.episodes, result.wins, result.success) == (3, 1, pytest.approx(1 / 3))
    assert result.score == pytest.approx((1 + 0.5 + 0) / 3)
    assert result.turns == pytest.approx(7 / 3)
    assert result.invalid_share == pytest.approx(2 / 6)  # of those whose validity is known
    assert result.outcomes == {
        "won": 1,
        "lost": 1,
        "out_of_turns": 1,
        "out_of_tokens": 0,
        "env_error": 1,
        "timeout": 1,
    }
    assert result.metrics()["test/outcome_timeout"] == pytest.approx(0.2)
    assert "2 more broke" in result.sentence()


def test_pass_at_k_is_averaged_over_tasks():
    played = [episode("a", Outcome.WON)] + [episode("a", Outcome.LOST)] * 3 + [episode("b", Outcome.LOST)] * 4
    result = Evaluation.of("x", "test", played, samples=4)
    assert result.pass_at == {"pass@2": pytest.approx(0.25), "pass@4": pytest.approx(0.5)}


def test_when_everything_broke_there_is_no_success_rate_to_report():
    result = Evaluation.of("x", "test", [episode("a", Outcome.ENV_ERROR)])
    assert result.episodes == 0
    assert "test/success" not in result.metrics()
    assert (result.low, result.high) == (0.0, 1.0)
