"""Grouping and packing: by hand, and against every possible split."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.shared_prefix.plan import Block, Group, find_groups, pack


def groups_of(rows: list[list[int]]) -> list[Group]:
    width = max(map(len, rows))
    keys = np.full((len(rows), width, 1), -1)
    for index, row in enumerate(rows):
        keys[index, : len(row), 0] = row
    return find_groups(keys, np.array([len(row) for row in rows]))


def test_two_prompts_and_a_stranger() -> None:
    rows = [[1, 2, 3, 9], [4, 4, 4, 4], [1, 2, 3, 8], [5, 6, 7], [1, 2, 3, 7], [4, 4, 4, 5]]
    assert groups_of(rows) == [Group((0, 2, 4), 3), Group((1, 5), 3), Group((3,), 3)]


def test_one_token_in_common_does_not_join_prompts() -> None:
    # Together the four rows would share 1 token (3 saved); apart, two times 3 tokens (6 saved).
    assert groups_of([[1, 2, 3], [1, 2, 3], [1, 5, 6], [1, 5, 6]]) == [Group((0, 1), 3), Group((2, 3), 3)]


def test_a_row_that_ends_where_the_others_go_on() -> None:
    packing = pack(np.array([[[1], [2], [3]], [[1], [2], [0]]]), np.array([[1, 1, 1], [1, 1, 0]], dtype=bool))
    assert packing.blocks == (Block(start=0, prefix=2, own=(1,)),)
    assert packing.take.tolist() == [0, 1, 2]
    assert packing.put.tolist() == [[0, 1, 2], [0, 1, 3]]


def test_equal_rows_are_one() -> None:
    packing = pack(np.ones((3, 4, 1), dtype=np.int64), np.ones((3, 4), dtype=bool))
    assert packing.blocks == (Block(start=0, prefix=4, own=()),)
    assert (packing.size, packing.valid) == (4, 12)


def test_nothing_but_padding() -> None:
    packing = pack(np.ones((2, 3, 1), dtype=np.int64), np.zeros((2, 3), dtype=bool))
    assert (packing.size, packing.valid, packing.blocks) == (0, 0, ())


def test_other_positions_are_other_tokens() -> None:
    tokens, positions = np.array([[7, 8], [7, 8]]), np.array([[0, 1], [1, 2]])
    packing = pack(np.stack([tokens, positions], -1), np.ones((2, 2), dtype=bool))
    assert packing.size == 4


ROWS = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=6)


@given(ROWS)
def test_no_split_of_the_sorted_rows_forwards_fewer_tokens(rows: list[list[int]]) -> None:
    """The dynamic programme against every way to cut the sorted rows into runs."""
    if not any(rows):
        return
    rows = sorted((row for row in rows if row), key=lambda row: [*row, 9])  # what ends sorts after what goes on

    def common(members: list[int]) -> int:
        shared = 0
        for column in zip(*(rows[m] for m in members), strict=False):
            if len(set(column)) > 1:
                break
            shared += 1
        return shared

    def best(begin: int) -> int:
        ends = range(begin + 1, len(rows) + 1)
        return max(((end - begin - 1) * common(list(range(begin, end))) + best(end) for end in ends), default=0)

    groups = groups_of(rows)
    assert sorted(row for g in groups for row in g.rows) == list(range(len(rows)))
    assert sum((len(g.rows) - 1) * g.prefix for g in groups) == best(0)


@given(ROWS, st.randoms(use_true_random=False))
def test_every_token_finds_its_own(rows: list[list[int]], random: object) -> None:
    """Scattered back, a packed batch is the batch; each group is its prefix and then its rows, each in order."""
    width = 1 + max(map(len, rows))
    keys, mask = np.full((len(rows), width), 9), np.zeros((len(rows), width), dtype=bool)
    for index, row in enumerate(rows):
        columns = sorted(random.sample(range(width), len(row)))  # type: ignore[attr-defined]
        keys[index, columns], mask[index, columns] = row, True
    packing = pack(keys[..., None], mask)
    assert (packing.put[~mask] == packing.size).all()
    assert (keys.reshape(-1)[packing.take][packing.put[mask]] == keys[mask]).all()
    assert sorted(set(packing.put[mask].tolist())) == list(range(packing.size))
    ends = [block.start + block.prefix + sum(block.own) for block in packing.blocks]
    assert [block.start for block in packing.blocks] == [0, *ends][: len(ends)]
    for row in range(len(rows)):
        assert all(a < b for a, b in pairwise(packing.put[row][mask[row]].tolist()))


@pytest.mark.parametrize("rows", [2, 64])
def test_groups_of_a_grpo_batch(rows: int) -> None:
    rng = np.random.default_rng(0)
    prompt, answers = rng.integers(0, 1000, 50), rng.integers(0, 1000, (rows, 20))
    answers[:, 0] = np.arange(rows)
    keys = np.concatenate([np.tile(prompt, (rows, 1)), answers], 1)
    assert find_groups(keys[..., None], np.full(rows, 70)) == [Group(tuple(range(rows)), 50)]
