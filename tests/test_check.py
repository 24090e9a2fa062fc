"""The catalogue of bad configs: what is wrong, and the sentence that says so."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt

from meowtea.check import check
from meowtea.config import compose
from meowtea.errors import ConfigError
from meowtea.signature import node_problems, value_problems

BASE = ("env=toy", "engine=transformers", "algorithm=rloo", "model=tiny-random")


def problems(*overrides: str, told: tuple[str, ...] = ()) -> list[str]:
    """What `check` says of a config; nothing if it is fine."""
    try:
        check(compose("train", [*BASE, *overrides]), "train", told)
    except ConfigError as error:
        return error.problems
    return []


def test_the_base_config_is_fine():
    assert problems() == []


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rollout.temperature=0", "rollout.temperature: must be greater than 0, got 0"),
        ("rollout.group_size=x", "rollout.group_size: must be an integer, got 'x'"),
        ("rollout.group_size=2.5", "rollout.group_size: must be an integer"),
        ("rollout.group_size=null", "rollout.group_size: must be an integer, got null"),
        ("rollout.group_size='8'", "rollout.group_size: must be an integer, got '8'"),
        ("evaluation.baseline=1", "evaluation.baseline: must be a boolean, got 1"),
        ("evaluation.split=tests", "did you mean 'test'?"),
        ("evaluation.top_p=1.5", "evaluation.top_p: must be less than or equal to 1, got 1.5"),
        ("learner.lr=[1]", "learner.lr: must be a number"),
        ("budget.minutes=-1", "budget.minutes: must be greater than 0 or null, got -1"),
        ("budget.sft_share=2", "budget.sft_share: must be less than or equal to 1, got 2"),
        ("algorithm.clip_hi=0.3", "algorithm.clip_hi: Rloo has no such option; did you mean 'clip_high'?"),
        ("learner.zzz=0.3", "learner.zzz: Learner has no such option; it has lr,"),
        ("~learner.lr", "learner.lr: is missing; Learner needs it"),
        ("model.name=???", "model.name: has no default; set model.name=..."),
        ("env._target_=meowtea.nothing.Here", "env._target_: cannot import 'meowtea.nothing.Here'"),
        ("name=3", "name: must be a string or null, got 3"),
        ("seed=-1", "seed: must be greater than or equal to 0, got -1"),
        ("rollout.group_size=1", "algorithm=rloo needs rollout.group_size >= 2, got 1"),
        ("rollout.max_reply_tokens=5000", "rollout.max_reply_tokens: must be less than engine.max_context"),
        ("budget.total=5", "budget.sft_share: 0.6 of 5 buys no demonstration"),
        ("seed=${nothing}", "seed: Interpolation key 'nothing' not found"),
    ],
)
def test_one_problem_one_sentence(override, told):
    found = problems(override)
    assert len(found) == 1, found
    assert told in found[0]


def test_games_that_the_seeds_cannot_give():
    found = problems("env=textworld/w2-o3-q4", "budget.total=100000", "evaluation.tasks=101")
    assert [line.partition(":")[0] for line in found] == ["env.train_seeds", "env.demo_seeds", "env.test_seeds"]


def test_overlapping_seed_ranges():
    found = problems("env=textworld/w2-o3-q4", "env.test_seeds=[1,100]", "env.validation_seeds=[50,150]")
    assert len(found) == 1 and "validation" in found[0] and "test" in found[0]


def test_more_minibatches_than_episodes():
    found = problems("algorithm=ppo", "algorithm.minibatches=9", "rollout.tasks_per_step=2", "rollout.group_size=4")
    assert found == [
        "algorithm.minibatches: must be at most 8, the episodes of a step (rollout.tasks_per_step x "
        "rollout.group_size), got 9"
    ]


def test_all_problems_come_at_once():
    assert len(problems("rollout.temperature=0", "learner.lrr=1", "seed=-1", "budget.epochs=0")) == 4


def test_groups_with_problems_are_not_compared():
    assert problems("rollout.group_size=1", "algorithm.epochs=0") == [
        "algorithm.epochs: must be greater than or equal to 1, got 0"
    ]


def test_keys_that_the_budget_leaves_without_effect():
    words = ("budget.sft_share=1", "learner.lr=1e-5", "algorithm.clip_low=0.1", "sft.lr=1e-4")
    found = problems(*words, told=words)
    assert [line.partition(":")[0] for line in found] == ["learner.lr", "algorithm.clip_low"]
    words = ("budget.sft_share=0", "sft.lr=1e-4")
    assert problems(*words, told=words) == [
        "sft.lr: has no effect, because the budget buys no demonstrations (budget.sft_share); leave it out"
    ]


class Part:
    def __init__(self, *, size: Annotated[int, Ge(1)]):
        self.size = size


class Whole:
    def __init__(
        self, runtime: Any, given: int = 0, *, parts: list[Part], limit: Annotated[float, Gt(0)] | None = None
    ):
        self.parts, self.limit = parts, limit

    @staticmethod
    def problems(*, parts: list[Any], **others: Any) -> list[str]:
        return ["parts: must not be empty"] if not parts else []


HERE = f"{__name__}."


def test_nodes_inside_nodes_are_checked():
    part = {"_target_": HERE + "Part"}
    node = {"_target_": HERE + "Whole", "parts": [{**part, "size": 1}, {**part, "size": 0}]}
    assert node_problems("x", node) == ["x.parts[1].size: must be greater than or equal to 1, got 0"]


def test_a_class_may_check_its_own_keys_once_their_types_are_right():
    node = {"_target_": HERE + "Whole", "parts": []}
    assert node_problems("x", node) == ["x.parts: must not be empty"]
    assert node_problems("x", {**node, "limit": -1}) == ["x.limit: must be greater than 0 or null, got -1"]


def test_a_positional_argument_is_no_config_key():
    node = {"_target_": HERE + "Whole", "parts": [], "given": 3}
    assert node_problems("x", node) == [
        "x.given: Whole takes it by position; config keys are keyword-only arguments (after a `*`)"
    ]


@pytest.mark.parametrize(
    ("value", "annotation", "told"),
    [
        (1, float, None),
        ([1, 2], tuple[int, int], None),
        (float("inf"), float, None),
        (None, int | None, None),
        ("full", Literal["full"] | Annotated[int, Ge(1)], None),
        (0, Literal["full"] | Annotated[int, Ge(1)], "x: must be 'full' or must be greater than or equal to 1, got 0"),
        ([1, "a"], list[int], "x[1]: must be an integer, got 'a'"),
        ({"a": "b"}, dict[str, int], "x.a: must be an integer, got 'b'"),
        (True, int, "x: must be an integer, got true"),
        ("a" * 200, int, "x: must be an integer, got '" + "a" * 76 + "..."),
    ],
)
def test_values(value, annotation, told):
    assert value_problems("x", value, annotation) == ([told] if told else [])


def test_clip_keys_without_a_second_optimizer_step_have_no_effect():
    words = ("algorithm=rloo", "algorithm.clip_high=0.28")
    assert [line.partition(":")[0] for line in problems(*words, told=words)] == ["algorithm.clip_high"]
    words += ("algorithm.minibatches=2",)
    assert problems(*words, told=words) == []


def test_replies_that_think_need_room():
    assert [p.partition(":")[0] for p in problems("prompt=think")] == ["rollout.max_reply_tokens"]
    assert problems("prompt=think", "rollout.max_reply_tokens=256") == []
