from __future__ import annotations

from itertools import chain

import torch
from tiny import play

from meowtea.batch import TokenBatch
from meowtea.learner.microbatch import micro_batches, minibatches, tokens_of_trajectories
from meowtea.learner.packing import MAX_WASTE, QUERY_BLOCK, Packing, common_prefix, group_items


def test_every_token_finds_its_id_and_position_in_the_trie(batch):
    for share in (True, False):
        packing = Packing.of(batch, share)
        assert (packing.token_U[packing.slot_T] == batch.token_T).all()
        assert (packing.position_U[packing.slot_T] == batch.position_T).all()


def test_shared_beginnings_are_computed_once(batch):
    beginnings = {
        tuple(batch.token_T[start : start + i + 1].tolist())
        for start, stop in zip(batch.cu_seqlens_N1[:-1], batch.cu_seqlens_N1[1:], strict=True)
        for i in range(stop - start)
    }
    assert len(Packing.of(batch).token_U) == len(beginnings) < len(batch.token_T)
    assert len(Packing.of(batch, share_prefixes=False).token_U) == len(batch.token_T)


def test_two_equal_episodes_cost_one():
    one = play(groups=1, episodes=1)
    packing = Packing.of(TokenBatch.pack(one * 2))
    assert len(packing.token_U) == len(packing.slot_T) / 2


def test_every_slot_is_the_query_of_one_item_and_sees_exactly_its_past(batch):
    packing = Packing.of(batch)
    seen = torch.zeros(len(packing.token_U), dtype=torch.long)
    for bucket in packing.buckets:
        for i in range(len(bucket.query_IL)):
            real = bucket.query_IL[i] < len(seen)
            for query, bias in zip(bucket.query_IL[i][real], bucket.bias_ILM[i][real], strict=True):
                seen[query] += 1
                keys = bucket.key_IM[i][bias == 0]
                assert keys[-1] == query
                assert packing.position_U[keys].tolist() == list(range(len(keys)))
    queries = torch.cat([bucket.query_IL.flatten() for bucket in packing.buckets])
    assert queries[packing.owner_U].tolist() == list(range(len(seen)))
    assert (seen == 1).all()


def test_buckets_bound_their_padding():
    slots = torch.arange(1500).numpy()
    lengths = [5, 130, 1500, *range(250, 400, 7)]
    items = [(s, min(s + QUERY_BLOCK, n), slots[:n]) for n in lengths for s in range(0, n, QUERY_BLOCK)]
    groups = group_items(items)
    assert sum(len(group) for group in groups) == len(items)
    for group in groups:
        area = sum((end - start) * end for start, end, _ in group)
        padded = len(group) * max(end - start for start, end, _ in group) * max(end for _, end, _ in group)
        assert padded <= MAX_WASTE * area
    assert len(groups) < len(items) / 2


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0


def test_micro_batches_cover_every_trajectory_once_within_the_limit():
    batch = TokenBatch.pack(play(groups=4, episodes=4, windowed=True))
    batch.value_A = torch.arange(batch.action_count).float()
    seen = []
    parts = list(micro_batches(batch, 150, share_prefixes=True))
    assert len(parts) > 2
    for micro, rows in parts:
        micro.validate()
        assert (micro.value_A == rows).all()
        assert len(Packing.of(micro).token_U) <= 150
        seen += rows.tolist()
    assert sorted(seen) == list(range(batch.action_count))


def test_a_trajectory_longer_than_the_limit_stands_alone(batch):
    assert [micro.trajectory_count for micro, _ in micro_batches(batch, 1, True)] == [1] * batch.trajectory_count


def test_tokens_of_trajectories_join_their_sequences():
    trajectories = play(windowed=True)
    expected = [[i for turn in t.turns for i in turn.context_ids + turn.action_ids] for t in trajectories]
    assert tokens_of_trajectories(TokenBatch.pack(trajectories)) == expected


def test_minibatches_deal_all_trajectories_and_differ_between_passes():
    generator = torch.Generator().manual_seed(0)
    first, second = (minibatches(16, 4, generator) for _ in range(2))
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(16))
    assert [len(part) for part in first] == [4] * 4
    assert first != second
    assert minibatches(3, 1, generator) == [[0, 1, 2]]
    assert len(minibatches(2, 4, generator)) == 2
