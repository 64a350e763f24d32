"""Which rows of a batch begin alike, and the order in which their distinct tokens are forwarded.

Everything here is numpy on the host and knows nothing of models. A row is a sequence of *keys*: what must be equal for
two tokens to have the same hidden state, given that everything before them is equal too (token id, which image it
shows, its positions).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """Rows that share their first tokens. A row that shares nothing is a group of its own, all of it prefix.

    Attributes:
        rows: indices in the batch.
        prefix: tokens shared, counted over valid tokens (padding skipped).
    """

    rows: tuple[int, ...]
    prefix: int


@dataclass(frozen=True)
class Block:
    """Where a group lies in the packed sequence: `[prefix | own tokens of row 1 | own tokens of row 2 | …]`.

    Attributes:
        start: packed index of the prefix's first token.
        prefix: tokens in the prefix (at least 1).
        own: tokens of each row after the prefix; rows without any are left out.
    """

    start: int
    prefix: int
    own: tuple[int, ...]


@dataclass(frozen=True)
class Packing:
    """A batch of B rows and L columns as one sequence of its N distinct tokens.

    Attributes:
        take: (N,) for each packed token, its place in the flattened (B·L) batch (in the group's first row when shared).
        put: (B, L) for each place of the batch, its packed token; N at padding.
        blocks: the groups, in packed order.
        valid: tokens of the batch that are not padding.
    """

    take: Int
    put: Int
    blocks: tuple[Block, ...]
    valid: int

    @property
    def size(self) -> int:
        """N, the tokens that are forwarded."""
        return len(self.take)


def find_groups(keys: Int, lengths: Int) -> list[Group]:
    """Split rows into groups with a common prefix so that few tokens are forwarded.

    Sorted as strings, rows that share a prefix are neighbours, and the prefix of a run of neighbours is the shortest
    one between two adjacent rows. The split of the sorted order into runs that saves most is found by dynamic
    programming over its end, O(B²). Equal savings keep rows apart.

    Args:
        keys: (B, L, K) the rows' keys, row b has `lengths[b]` tokens from column 0 on, then whatever.
        lengths: (B,) tokens in each row; empty rows belong to no group.

    Example:
        >>> rows = np.array([[7, 8, 1], [5, 5, 5], [7, 8, 2]])
        >>> find_groups(rows[..., None], np.array([3, 3, 3]))
        [Group(rows=(1,), prefix=3), Group(rows=(0, 2), prefix=2)]
    """
    column = np.arange(keys.shape[1])
    # Big-endian, so that the order of the bytes keeps equal beginnings together.
    text = np.where((column < lengths[:, None])[..., None], keys, np.iinfo(np.int64).min).astype(">i8")
    order = sorted((row for row in range(len(keys)) if lengths[row]), key=lambda row: text[row].tobytes())
    if not order:
        return []
    above, below = np.array(order[:-1], dtype=np.int64), np.array(order[1:], dtype=np.int64)
    inside = column < np.minimum(lengths[above], lengths[below])[:, None]
    same = (keys[above] == keys[below]).all(-1) & inside
    common = np.pad(same, ((0, 0), (0, 1))).argmin(1)  # the pad stops rows that are equal to their end

    rows = len(order)
    saved, start = np.zeros(rows + 1, dtype=np.int64), np.zeros(rows + 1, dtype=np.int64)
    for end in range(1, rows + 1):
        # A run [i, end) saves its prefix once for every row but one.
        prefixes = np.minimum.accumulate(common[: end - 1][::-1])[::-1]
        gain = saved[:end] + np.append(prefixes * np.arange(end - 1, 0, -1), 0)
        best = end - 1 - int(gain[::-1].argmax())
        saved[end], start[end] = gain[best], best
    groups, end = [], rows
    while end:
        begin = int(start[end])
        members = sorted(order[begin:end])
        prefix = int(common[begin : end - 1].min()) if end - begin > 1 else int(lengths[members[0]])
        groups.append(Group(tuple(members), prefix))
        end = begin
    return groups[::-1]


def pack(keys: Int, mask: Bool) -> Packing:
    """Lay the distinct tokens of a batch out in one sequence, group after group.

    Args:
        keys: (B, L, K) what must be equal for two tokens to be the same.
        mask: (B, L) True at tokens, False at padding (any place: left, right, between).

    Example:
        >>> keys = np.array([[0, 7, 8, 1], [7, 8, 2, 3]])[..., None]
        >>> packing = pack(keys, np.array([[False, True, True, True], [True, True, True, True]]))
        >>> packing.take.tolist(), packing.put.tolist(), packing.blocks
        ([1, 2, 3, 6, 7], [[5, 0, 1, 2], [0, 1, 3, 4]], (Block(start=0, prefix=2, own=(1, 2)),))
    """
    rows, width = mask.shape
    lengths = mask.sum(1)
    columns = np.argsort(~mask, axis=1, kind="stable")  # the valid columns first, in their order
    take, blocks, at = [], [], 0
    put = np.full((rows, width), -1, dtype=np.int64)
    for group in find_groups(np.take_along_axis(keys, columns[..., None], 1), lengths):
        first, own, prefix = group.rows[0], [], group.prefix
        take.append(first * width + columns[first, :prefix])
        start, at = at, at + prefix
        for row in group.rows:
            put[row, columns[row, :prefix]] = np.arange(start, start + prefix)
            rest = columns[row, prefix : lengths[row]]
            if len(rest):
                put[row, rest] = np.arange(at, at + len(rest))
                take.append(row * width + rest)
                own.append(len(rest))
                at += len(rest)
        blocks.append(Block(start, prefix, tuple(own)))
    put[put < 0] = at
    return Packing(np.concatenate(take) if take else np.empty(0, np.int64), put, tuple(blocks), int(lengths.sum()))
