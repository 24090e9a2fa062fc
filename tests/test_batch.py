from dataclasses import replace

import pytest
import torch

from meowtea.batch import TokenBatch
from meowtea.errors import BatchError
from meowtea.types import Outcome, Task, Trajectory, Turn


def turn(context, action, starts=False):
    return Turn(context, action, [-0.5] * len(action), starts, "", "", "")


def trajectory(group=0, outcome=Outcome.WON, turns=None, rewards=None):
    turns = turns or [turn([1, 2, 3], [4, 5], True), turn([6], [7])]
    return Trajectory(Task("t", "train", 1), group, turns, outcome, 1, 1, rewards=rewards or [0.25] * len(turns))


def three():
    rewritten = [turn([1, 2], [3], True), turn([9, 8, 7], [6, 5], True), turn([4], [3])]
    return [
        trajectory(group=4, rewards=[0.5, 1.0]),
        trajectory(group=4, outcome=Outcome.OUT_OF_TURNS, turns=rewritten),
        trajectory(group=7, rewards=[0.0, -1.0]),
    ]


def test_pack_lays_sequences_end_to_end():
    batch = TokenBatch.pack(three(), temperature=0.7)
    assert batch.token_T.tolist() == [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 9, 8, 7, 6, 5, 4, 3, 1, 2, 3, 4, 5, 6, 7]
    assert batch.cu_seqlens_N1.tolist() == [0, 7, 10, 17, 24]  # the rewritten history opens a sequence of its own
    assert batch.position_T.tolist() == [*range(7), *range(3), *range(7), *range(7)]
    assert batch.token_T[batch.action_index_A].tolist() == [4, 5, 7, 3, 6, 5, 3, 4, 5, 7]
    assert batch.trajectory_A.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert batch.turn_A.tolist() == [0, 0, 1, 0, 1, 1, 2, 0, 0, 1]
    assert batch.sequence_A().tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert batch.terminal_B.tolist() == [True, False, True]
    assert batch.group_B.tolist() == [4, 4, 7]
    assert batch.temperature == 0.7


def test_a_reward_sits_on_the_last_token_of_its_turn():
    batch = TokenBatch.pack(three())
    assert batch.reward_A.tolist() == [0, 0.5, 1.0, 0.25, 0, 0.25, 0.25, 0, 0, -1.0]
    assert batch.reward_B().tolist() == [1.5, 0.75, -1.0]


def test_select_keeps_every_quantity_with_its_token():
    batch = TokenBatch.pack(three())
    batch.advantage_A = torch.arange(10.0)
    part = batch.select([2, 1])
    part.validate()
    assert part.advantage_A.tolist() == [7, 8, 9, 3, 4, 5, 6]
    assert part.token_T[part.action_index_A].tolist() == [4, 5, 7, 3, 6, 5, 3]
    assert part.group_B.tolist() == [7, 4]
    whole = batch.select(range(3))
    assert torch.equal(whole.token_T, batch.token_T) and torch.equal(whole.action_index_A, batch.action_index_A)


@pytest.mark.parametrize("outcome", [Outcome.ENV_ERROR, Outcome.TIMEOUT])
def test_broken_episodes_never_enter_a_batch(outcome):
    with pytest.raises(BatchError, match="not for updates"):
        TokenBatch.pack([trajectory(outcome=outcome)])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (trajectory(rewards=[1.0]), "score it before packing"),
        (trajectory(turns=[turn([1], [2])]), "must start a sequence"),
        (trajectory(turns=[turn([1], [], True)]), "at least one"),
        (trajectory(turns=[turn([], [2], True)]), "no token before it"),
        (trajectory(rewards=[float("nan"), 0.0]), "reward_A has a value that is not finite"),
    ],
)
def test_bad_trajectories_are_refused_with_a_sentence(bad, message):
    with pytest.raises(BatchError, match=message):
        TokenBatch.pack([bad])


def corrupt(name, change):
    batch = TokenBatch.pack(three())
    value = getattr(batch, name).clone()
    change(value)
    return replace(batch, **{name: value})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda: corrupt("position_T", lambda v: v.__setitem__(8, 5)), "do not count up"),
        (lambda: corrupt("action_index_A", lambda v: v.__setitem__(1, 3)), "do not increase"),
        (lambda: corrupt("rollout_logprob_A", lambda v: v.__setitem__(0, 0.5)), "above 0"),
        (lambda: corrupt("rollout_logprob_A", lambda v: v.__setitem__(0, float("-inf"))), "not finite"),
        (lambda: corrupt("reward_A", lambda v: v.__setitem__(0, 1.0)), "not on the last action token"),
        (lambda: corrupt("turn_A", lambda v: v.__setitem__(0, 9)), "turns are out of order"),
        (lambda: corrupt("trajectory_A", lambda v: v.__setitem__(0, 1)), "out of order"),
        (lambda: corrupt("cu_seqlens_N1", lambda v: v.__setitem__(4, 23)), "cover the tokens"),
        (lambda: replace(TokenBatch.pack(three()), value_A=torch.zeros(3)), "value_A is not on the action axis"),
    ],
)
def test_validate_names_the_violated_invariant(batch, message):
    with pytest.raises(BatchError, match=message):
        batch().validate()


def test_validate_compares_with_what_was_sampled():
    trajectories = three()
    batch = TokenBatch.pack(trajectories)
    trajectories[0].turns[0].action_ids[0] = 99
    with pytest.raises(BatchError, match="differ from those sampled"):
        batch.validate(trajectories)
    trajectories = three()
    trajectories[2].rewards[0] += 1
    with pytest.raises(BatchError, match="rewards of trajectory 2"):
        batch.validate(trajectories)
