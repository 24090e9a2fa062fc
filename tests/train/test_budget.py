from pathlib import Path

import pytest
import yaml

from meowtea.train.budget import Budget, Spending, TaskCursor

POINTS = [(0, 1000), (20, 800), (40, 600), (60, 400), (80, 200), (100, 0)]  # the paper's Table 9


def budget(**changes):
    keys = {"total": 1000, "demo_cost": 10, "episode_cost": 1, "sft_share": 0.6, "epochs": 1, "minutes": None}
    return Budget(**{**keys, **changes})


@pytest.mark.parametrize(("demos", "games"), POINTS)
def test_the_papers_points_buy_what_their_names_say(demos, games):
    path = Path(__file__).parents[2] / "conf" / "budget" / f"sft{demos}_rl{games}.yaml"
    keys = {k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "_target_"}
    assert (Budget(**keys).demos, Budget(**keys).games) == (demos, games)


def test_a_budget_that_buys_nothing_is_a_problem():
    keys = {"total": 5, "demo_cost": 10, "episode_cost": 10, "sft_share": 0.5, "epochs": 1, "minutes": None}
    assert any(p.startswith("total:") for p in Budget.problems(**keys))
    assert any(p.startswith("sft_share:") for p in Budget.problems(**keys))
    assert Budget.problems(**{**keys, "total": 100}) == []


def test_spending_is_priced_per_distinct_game():
    spending = Spending(demos=60, games=123, episodes=4000)
    assert spending.cost(budget()) == 723
    assert spending.metrics(budget())["budget/spent"] == 723


def test_every_pass_deals_every_game_once_in_an_order_of_its_own():
    cursor = TaskCursor(count=10, epochs=2, seed=3)
    dealt = [i for _ in range(7) for i in cursor.deal(3)]
    assert sorted(dealt[:10]) == sorted(dealt[10:]) == list(range(10))
    assert dealt[:10] != dealt[10:]
    assert cursor.finished and cursor.deal(3) == []
    assert cursor.distinct == 10


def test_a_cursor_goes_on_from_its_position():
    whole = TaskCursor(10, 3, seed=1)
    dealt = [whole.deal(4) for _ in range(8)]
    resumed = TaskCursor(10, 3, seed=1)
    resumed.position = 12
    assert [resumed.deal(4) for _ in range(5)] == dealt[3:]


def test_a_cursor_without_games_is_finished():
    assert TaskCursor(0, 5, seed=1).finished
