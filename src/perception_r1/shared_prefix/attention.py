"""Attention over a packed sequence: two calls a group and layer, nothing between the rows of a group.

The first call is the prefix over itself, causally. The second is every row's own tokens, as a batch, over
`[prefix | own]`, causally with the last query at the last key ("lower right"). A row therefore sees exactly the keys
that it would see alone, in the same order. No mask over the packed sequence exists; memory is linear in its length.

It enters transformers at its public seam, the registry of attention functions: the registered function is replaced by
one that does the same, unless its caller passes a `Layout` under the keyword `LAYOUT`. A keyword rather than a switch
on the model, because activation checkpointing calls the layers again, with the same arguments, after the forward. The
registered name stays what it was, because transformers reads FlashAttention's kernel and mask off the name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from perception_r1.shared_prefix.plan import Block, Packing

LAYOUT = "shared_prefix_layout"
_PLAIN = "_perception_r1_plain"
Tensor = torch.Tensor


class Part:
    """One group on the device: `Block`, with the indices that make its rows a rectangle.

    Rows of a group may differ in length. They are padded on the right by repeating their last token: causality hides
    the padding from every real token, and its outputs are dropped, so it needs no mask and gets no gradient.
    """

    def __init__(self, block: Block, device: torch.device) -> None:
        self.start, self.prefix, self.own = block.start, block.prefix, block.own
        self.rows, self.width = len(block.own), max(block.own, default=0)
        self.ragged = len(set(block.own)) > 1
        if self.ragged:
            lengths = np.array(block.own)
            begins = block.start + block.prefix + np.cumsum(lengths) - lengths
            column = np.arange(self.width)
            places = begins[:, None] + np.minimum(column, lengths[:, None] - 1)
            kept = np.flatnonzero(column < lengths[:, None])
            self.places = torch.from_numpy(places.reshape(-1)).to(device)
            self.kept = torch.from_numpy(kept).to(device)

    def rectangle(self, x: Tensor) -> Tensor:
        """Own tokens of (1, H, N, D) as (rows, H, width, D)."""
        begin = self.start + self.prefix
        if self.ragged:
            x = x.index_select(2, self.places.to(x.device))
        else:
            x = x[:, :, begin : begin + self.rows * self.width]
        return x[0].reshape(x.shape[1], self.rows, self.width, -1).transpose(0, 1)

    def flat(self, x: Tensor) -> Tensor:
        """(rows, width, H, D) back to (own tokens, H, D), padding dropped."""
        x = x.flatten(0, 1)
        return x.index_select(0, self.kept.to(x.device)) if self.ragged else x


class Layout:
    """A packed sequence as the attention function sees it; the same object serves every layer."""

    def __init__(self, packing: Packing, device: torch.device) -> None:
        self.parts = [Part(block, device) for block in packing.blocks]
        self._masks: dict[tuple[int, int], Tensor] = {}

    def mask(self, own: int, prefix: int, device: torch.device) -> Tensor:
        """(own, prefix + own) True where a query may look; kept, since every layer asks for it."""
        if (own, prefix) not in self._masks:
            ones = torch.ones(own, prefix + own, dtype=torch.bool, device=device)
            self._masks[own, prefix] = ones.tril(prefix)
        return self._masks[own, prefix].to(device)


def supported(name: str | None) -> bool:
    """Whether packed attention can be computed with the implementation that a model is set to."""
    return name == "sdpa" or (name is not None and "flash" in name and "|" not in name)


def install(name: str) -> None:
    """Make the registered attention function `name` understand a `Layout`. Calls without one go to it unchanged."""
    plain = ALL_ATTENTION_FUNCTIONS[name]
    if not hasattr(plain, _PLAIN):
        AttentionInterface.register(name, _dispatcher(plain, flash=name != "sdpa"))


def uninstall() -> None:
    """Put the registry back as `install` found it."""
    for name in ALL_ATTENTION_FUNCTIONS.valid_keys():
        if (plain := getattr(ALL_ATTENTION_FUNCTIONS[name], _PLAIN, None)) is not None:
            AttentionInterface.register(name, plain)


def _dispatcher(plain: Callable[..., Any], *, flash: bool) -> Callable[..., Any]:
    @functools.wraps(plain)
    def attention(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        layout: Layout | None = kwargs.pop(LAYOUT, None)
        if layout is None:
            result: tuple[Tensor, Tensor | None] = plain(module, query, key, value, *args, **kwargs)
            return result
        scaling = kwargs.get("scaling")
        if flash:
            # FlashAttention's causal mask is lower right, and it takes grouped heads and (rows, tokens, H, D) itself.
            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                output: Tensor = plain(module, q, k, v, None, scaling=scaling, is_causal=True)[0]
                return output
        else:
            attend = functools.partial(_sdpa, layout, scaling)
        return _attend(layout, query, key, value, attend), None

    setattr(attention, _PLAIN, plain)
    return attention


def _attend(layout: Layout, query: Tensor, key: Tensor, value: Tensor, attend: Callable[..., Tensor]) -> Tensor:
    """(1, H, N, D) queries, (1, H_kv, N, D) keys and values → (1, N, H, D)."""
    outputs = []
    for part in layout.parts:
        span = slice(part.start, part.start + part.prefix)
        shared_key, shared_value = key[:, :, span], value[:, :, span]
        outputs.append(attend(query[:, :, span], shared_key, shared_value)[0])
        if part.rows:
            expand = (part.rows, -1, -1, -1)
            own = attend(
                part.rectangle(query),
                torch.cat([shared_key.expand(expand), part.rectangle(key)], 2),
                torch.cat([shared_value.expand(expand), part.rectangle(value)], 2),
            )
            outputs.append(part.flat(own))
    return torch.cat(outputs)[None]


def _sdpa(layout: Layout, scaling: float | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of the last queries, (R, H, T, D) over (R, H_kv, S, D) with T ≤ S → (R, T, H, D)."""
    grouped = query.shape[1] != key.shape[1]
    tokens, keys = query.shape[2], key.shape[2]
    if tokens == keys:
        output = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
    elif query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        # The flash kernel knows "lower right"; an explicit mask would rule it out.
        bias: Any = causal_lower_right(tokens, keys)
        output = scaled_dot_product_attention(query, key, value, bias, scale=scaling, enable_gqa=grouped)
    else:
        mask = layout.mask(tokens, keys - tokens, query.device)
        if grouped and query.device.type != "cpu":  # only the CPU's fused kernel takes both a mask and grouped heads
            repeats = query.shape[1] // key.shape[1]
            key, value, grouped = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1), False
        output = scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=grouped)
    return output.transpose(1, 2)
