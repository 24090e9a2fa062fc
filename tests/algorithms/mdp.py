"""A game small enough to enumerate: up to 3 turns, replies of 1 or 2 tokens, 11 possible episodes.

A reply is 'b', or 'a' and then any token; so 'b', 'aa' and 'ab' are the commands. The policy is a table of logits,
one row per state and reply so far. Everything is exact: no test here samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from meowtea.algorithms.average import token_weights
from meowtea.algorithms.base import Algorithm, LossAverage
from meowtea.batch import TokenBatch
from meowtea.types import Outcome, Task, Trajectory, Turn

# state -> command -> (reward, next state, or why the episode ends)
GAME: dict[str, dict[str, tuple[float, str | Outcome]]] = {
    "start": {"b": (0.0, "left"), "aa": (0.5, "right"), "ab": (0.0, Outcome.LOST)},
    "left": {"b": (1.0, Outcome.WON), "aa": (0.0, Outcome.LOST), "ab": (0.2, "late")},
    "right": {"b": (-0.5, Outcome.LOST), "aa": (0.0, "late"), "ab": (1.0, Outcome.WON)},
    "late": {"b": (1.0, Outcome.WON), "aa": (0.0, Outcome.LOST), "ab": (0.3, Outcome.OUT_OF_TURNS)},
}
ROW = {key: i for i, key in enumerate(itertools.product(GAME, ("", "a")))}
LOGITS = torch.tensor(
    [[0.3, -0.2], [0.8, 0.1], [-0.5, 0.4], [0.2, 0.9], [0.6, 0.0], [-0.3, 0.5], [0.1, -0.7], [0.4, 0.2]]
)
GROUP_SIZE = 4
TOKEN = {"a": 0, "b": 1}


def episodes(state: str = "start") -> Iterator[list[tuple[str, str, float]]]:
    """Every possible episode from a state on, as (state, command, reward) of each turn."""
    for command, (reward, after) in GAME[state].items():
        if isinstance(after, Outcome):
            yield [(state, command, reward)]
        else:
            yield from ([(state, command, reward), *rest] for rest in episodes(after))


def decisions(episode: list[tuple[str, str, float]]) -> list[tuple[int, int]]:
    """(row of the table, token chosen) for every action token of an episode."""
    return [(ROW[s, command[:i]], TOKEN[command[i]]) for s, command, _ in episode for i in range(len(command))]


EPISODES = list(episodes())
DECISIONS = [decisions(episode) for episode in EPISODES]


def logprobs(table: Tensor, chosen: list[int]) -> Tensor:
    """(A,) of these episodes, one after the other, from a table of log-probabilities."""
    return table.flatten()[[2 * row + token for e in chosen for row, token in DECISIONS[e]]]


def probability(logits: Tensor) -> Tensor:
    """(11,) of every episode."""
    table = logits.log_softmax(1)
    return torch.stack([logprobs(table, [e]).sum().exp() for e in range(len(EPISODES))])


def expected_return(logits: Tensor) -> Tensor:
    return (probability(logits) * torch.tensor([sum(r for *_, r in e) for e in EPISODES])).sum()


def policy_gradient() -> Tensor:
    """The gradient of the expected return, by enumeration."""
    logits = LOGITS.clone().requires_grad_()
    expected_return(logits).backward()
    assert logits.grad is not None
    return logits.grad


def values(chosen: list[int]) -> Tensor:
    """(A,) exact expected rewards from each action token on, before it is chosen."""
    prob = LOGITS.softmax(1)

    def after(state: str, command: str) -> float:
        reward, then = GAME[state][command]
        return reward if isinstance(then, Outcome) else reward + before(then, "")

    def before(state: str, reply: str) -> float:
        a, b = prob[ROW[state, reply]].tolist()
        go_on = before(state, "a") if reply == "" else after(state, reply + "a")
        return a * go_on + b * after(state, reply + "b")

    return torch.tensor(
        [before(s, command[:i]) for e in chosen for s, command, _ in EPISODES[e] for i in range(len(command))]
    )


def pack(chosen: list[int]) -> TokenBatch:
    """These episodes as one group of one batch."""
    trajectories = []
    for number, e in enumerate(chosen):
        turns = []
        for k, (state, command, _) in enumerate(EPISODES[e]):
            ids = [TOKEN[token] for token in command]
            turns.append(Turn([9], ids, [-0.7] * len(ids), k == 0, state, command, command))
        state, command, _ = EPISODES[e][-1]
        end = GAME[state][command][1]
        assert isinstance(end, Outcome)
        rewards = [r for *_, r in EPISODES[e]]
        task = Task("enumerable", "train", 0)
        trajectories.append(Trajectory(task, 0, turns, end, 0.0, 1.0, rewards=rewards, episode=number))
    batch = TokenBatch.pack(trajectories)
    batch.rollout_logprob_A = logprobs(LOGITS.log_softmax(1), chosen)
    return batch


def groups() -> list[tuple[float, list[int], TokenBatch]]:
    """Every group of GROUP_SIZE episodes without regard to order: its probability, the episodes, the batch."""
    prob = probability(LOGITS).tolist()
    found = []
    for chosen in itertools.combinations_with_replacement(range(len(EPISODES)), GROUP_SIZE):
        orders = math.factorial(GROUP_SIZE)
        for e in set(chosen):
            orders //= math.factorial(chosen.count(e))
        found.append((orders * math.prod(prob[e] for e in chosen), list(chosen), pack(list(chosen))))
    return found


def expected_gradient(
    algorithm: Algorithm,
    loss_average: LossAverage,
    all_groups: list[tuple[float, list[int], TokenBatch]],
    value: Callable[[list[int]], Tensor] | None = None,
) -> Tensor:
    """What the algorithm's gradient step amounts to on average, over every group that can be sampled."""
    logits = LOGITS.clone().requires_grad_()
    table = logits.log_softmax(1)
    total = torch.zeros(())
    for prob, chosen, packed in all_groups:
        batch = replace(packed, value_A=value(chosen) if value else None)
        algorithm.assign_credit(batch)
        loss_A, _ = algorithm.policy_loss(logprobs(table, chosen), None, batch)
        total = total + prob * (loss_A * token_weights(batch, loss_average)).sum()
    (-total).backward()
    assert logits.grad is not None
    return logits.grad


def compare(gradient: Tensor, truth: Tensor) -> tuple[float, float]:
    """(cosine, length) of a gradient against the true one: (1, 1) if there is no bias."""
    return float(torch.cosine_similarity(gradient.flatten(), truth.flatten(), dim=0)), float(
        gradient.norm() / truth.norm()
    )
