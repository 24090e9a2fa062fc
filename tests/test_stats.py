import math
from itertools import product

import pytest

from meowtea.stats import mean, pass_at_k, wilson_interval


@pytest.mark.parametrize(
    ("wins", "episodes", "low", "high"),
    [  # computed with scipy.stats.binomtest(wins, episodes).proportion_ci(method="wilson")
        (0, 100, 0.0, 0.036993),
        (58, 100, 0.482065, 0.672016),
        (77, 100, 0.678456, 0.841567),
        (1, 2, 0.094531, 0.905469),
        (10, 10, 0.722467, 1.0),
    ],
)
def test_wilson_interval_equals_published_values(wins, episodes, low, high):
    assert wilson_interval(wins, episodes) == pytest.approx((low, high), abs=2e-6)


@pytest.mark.parametrize("episodes", range(1, 200))
def test_wilson_interval_holds_the_rate_itself(episodes):
    for wins in {0, 1, episodes // 3, episodes - 1, episodes}:
        low, high = wilson_interval(wins, episodes)
        assert 0 <= low <= wins / episodes <= high <= 1


def test_wilson_interval_without_episodes_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_refuses_more_wins_than_episodes():
    with pytest.raises(ValueError, match="between 0 and the 3"):
        wilson_interval(4, 3)


def test_wilson_interval_covers_95_percent():
    p, n = 0.3, 60
    covered = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if wilson_interval(k, n)[0] <= p <= wilson_interval(k, n)[1]
    )
    assert covered == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pass_at_k_is_the_share_of_subsets_with_a_win(k):
    results = [True, False, False, True]
    subsets = [c for c in product(range(4), repeat=k) if len(set(c)) == k]
    expected = sum(any(results[i] for i in c) for c in subsets) / len(subsets)
    assert pass_at_k(2, 4, k) == pytest.approx(expected)


def test_mean_of_nothing_is_not_a_number():
    assert math.isnan(mean([]))
    assert mean([1, 2]) == 1.5
