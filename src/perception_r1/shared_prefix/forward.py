"""The `forward` that `enable` puts on a backbone: pack the batch, run the backbone's own forward on it, scatter.

The packed sequence goes through the model's own forward as a batch of one row. Embedding, image features, DeepStack,
rotary positions, layers, norms, caches and hooks are therefore the model's; only attention is told how to read the
sequence (`attention.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from perception_r1.errors import ModelError
from perception_r1.shared_prefix import attention, images
from perception_r1.shared_prefix.features import drops
from perception_r1.shared_prefix.plan import Int, Packing, pack
from perception_r1.shared_prefix.state import State

Tensor = torch.Tensor
Kwargs = dict[str, Any]

# Keywords of a backbone's forward that packing knows what to do with. With any other the plain path is taken.
_KNOWN = {
    "input_ids",
    "attention_mask",
    "position_ids",
    "past_key_values",
    "pixel_values",
    "image_grid_thw",
    "mm_token_type_ids",
    "mm_encoder_outputs",
    "use_cache",
    "return_dict",
    "num_items_in_batch",
    "image_sizes",
    "cache_position",
}
# Of these, what the packed call does without: positions are given, and a cache is filled from its start.
_DROPPED = ("mm_token_type_ids", "image_sizes", "cache_position")
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "max_length_q", "max_length_k", "seq_idx")
_NO_IMAGE = -1


@dataclass(frozen=True)
class Batch:
    """A batch whose rows share prefixes.

    Attributes:
        packing: where each token goes.
        positions: (R, B, L) position ids, R = 1, 3 (time, height, width) or 4 (text first), as the plain path has them.
        order: the images of the packed sequence, as indices among the batch's images.
        first: for each image of the batch, the first one that equals it.
    """

    packing: Packing
    positions: Tensor
    order: list[int]
    first: list[int]


def shared_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Stands in for a backbone's `forward`: same arguments, same result wherever `attention_mask` is 1."""
    state: State = self._shared_prefix
    kwargs = images.named(state.forward, args, kwargs)
    cache = kwargs.get("past_key_values")
    if (
        torch.compiler.is_compiling()
        or kwargs.get("cache") is not None
        or (cache is not None and cache.get_seq_length())
    ):
        return state.forward(**kwargs)  # traced, continuous batching, or decoding
    _refuse_packed(kwargs)
    state.stats.calls += 1
    reason = _why_plain(self, state, kwargs)
    batch = None if reason else _plan(self, state, kwargs)
    if batch is None:
        state.stats.plain[reason or "nothing is shared"] += 1
        tokens = _count(kwargs)
        state.stats.tokens_in += tokens
        state.stats.tokens_forwarded += tokens
        return state.forward(**kwargs)
    return _run(self, state, kwargs, batch)


def _count(kwargs: Kwargs) -> int:
    """Tokens of a batch, padding left out where a mask of rows says which it is."""
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return int(mask.sum())
    inputs = kwargs.get("input_ids")
    inputs = kwargs.get("inputs_embeds") if inputs is None else inputs
    return 0 if inputs is None else inputs.shape[0] * inputs.shape[1]


def _refuse_packed(kwargs: Kwargs) -> None:
    """Several sequences in one row would be compared as one; such callers must not think that they are served.

    Raises:
        ModelError: the caller passes cumulative lengths, or text positions that start again inside a row.
    """
    positions, cause = kwargs.get("position_ids"), next((k for k in _PACKED if kwargs.get(k) is not None), None)
    if cause is None and positions is not None and kwargs.get("attention_mask") is None:
        text = positions[0] if positions.ndim == 3 else positions
        if kwargs.get("past_key_values") is None and bool((text.diff(dim=-1) < 0).any()):
            cause = "position_ids that start again inside a row"
    if cause is not None:
        raise ModelError(
            f"shared_prefix: this caller packs several sequences into one row ({cause}), as verl does by default and "
            "ms-swift with padding_free. Set actor_rollout_ref.model.use_remove_padding=False (verl) or "
            "--padding_free false (ms-swift), or call shared_prefix.disable(model)"
        )


def _why_plain(backbone: Any, state: State, kwargs: Kwargs) -> str | None:
    """Why a call must take the plain path, from what can be told without looking at a token."""
    ids, mask, cache = (kwargs.get(key) for key in ("input_ids", "attention_mask", "past_key_values"))
    config = backbone.language_model.config
    if ids is None or ids.ndim != 2:
        return "no input_ids"
    if len(ids) < 2:
        return "a single row"
    if unknown := sorted(k for k, v in kwargs.items() if k not in _KNOWN and v is not None and v is not False):
        return f"{unknown[0]} was passed"
    if config.output_hidden_states or config.output_attentions:
        return "the config records hidden states or attentions"
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids.shape):
        return "an attention_mask that is not (rows, tokens)"
    if cache is not None and not (
        type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)
    ):
        return f"a cache of type {type(cache).__name__}"
    if not attention.supported(config._attn_implementation):
        reason = f"attn_implementation={config._attn_implementation!r}"
        state.warn_once(reason, "load the model with attn_implementation='sdpa' or a FlashAttention")
        return reason
    if backbone.training and drops(backbone):
        state.warn_once("dropout is active", "set attention_dropout and lora_dropout to 0")
        return "dropout is active"
    return None


def _plan(backbone: Any, state: State, kwargs: Kwargs) -> Batch | None:
    """Find what the rows of a batch share; None if that is too little, or the batch is not what packing expects.

    Position ids that the plain path would compute are computed here, by the model's own method on the whole batch
    (which also leaves `rope_deltas` as it would), and put in `kwargs`.
    """
    ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
    rows, width = ids.shape
    positions = kwargs.get("position_ids")
    if positions is None and hasattr(backbone, "compute_3d_position_ids"):
        positions = kwargs["position_ids"] = backbone.compute_3d_position_ids(
            input_ids=ids,
            image_grid_thw=kwargs.get("image_grid_thw"),
            video_grid_thw=None,
            inputs_embeds=ids.new_empty(rows, width, 0),  # only its shape and device are read
            attention_mask=mask,
            past_key_values=kwargs.get("past_key_values"),
            mm_token_type_ids=kwargs.get("mm_token_type_ids"),
        )
    if positions is None:
        positions = torch.arange(width, device=ids.device)[None]
    positions = (positions if positions.ndim == 3 else positions[None]).expand(-1, rows, -1)

    host = [ids[None], positions.to(ids.device)] + ([] if mask is None else [mask[None].to(ids.device)])
    table = torch.cat([x.long() for x in host]).cpu().numpy()  # one transfer
    valid = table[-1] != 0 if mask is not None else np.ones((rows, width), dtype=bool)
    tokens = table[: 1 + len(positions)]
    places = np.flatnonzero(tokens[0] == backbone.config.image_token_id)
    first, lengths = _images(kwargs, len(places))
    shown = np.full(rows * width, _NO_IMAGE)
    if first:
        ends, row = np.cumsum(lengths), places // width
        fits = lengths.all() and ends[-1] == len(places) and valid.flat[places].all()
        if not fits or (row[ends - 1] != row[ends - lengths]).any():
            return None  # images and their tokens do not match: the plain path says so, or knows better
        shown[places] = np.repeat(np.arange(len(first)), lengths)
        # An image is compared by its content: its tokens are all the same placeholder.
        tokens[0].flat[places] = -1 - np.array(first)[shown[places]]

    packing = pack(np.moveaxis(tokens, 0, -1), valid)
    if not packing.size or packing.valid - packing.size < state.min_saving * packing.valid:
        return None
    order = _image_order(shown[packing.take], lengths)
    if order is None:
        return None
    state.stats.shared += 1
    state.stats.tokens_in += packing.valid
    state.stats.tokens_forwarded += packing.size
    return Batch(packing, positions, order, first)


def _images(kwargs: Kwargs, tokens: int) -> tuple[list[int], Int]:
    """For each image of a batch, the first one equal to it; and how many of the batch's image tokens each takes."""
    pixels, encoded = kwargs.get("pixel_values"), (kwargs.get("mm_encoder_outputs") or {}).get("image")
    if encoded is not None:
        features = images.split_features(encoded)
        return images.first_equal([f[0] for f in features]), np.array([len(f[0]) for f in features])
    if pixels is None:
        return [], np.empty(0, np.int64)
    parts, grids = images.split_pixels(pixels, kwargs.get("image_grid_thw"))
    patches = np.array([len(part) if grid else 1 for part, grid in zip(parts, grids, strict=True)])
    # A token is the same number of patches (or share of a tile) in every image.
    return images.first_equal(parts, grids), patches * tokens // max(1, patches.sum())


def _image_order(shown: Int, lengths: Int) -> list[int] | None:
    """The images along a packed sequence; None if one is there in part only.

    Args:
        shown: (N,) for each packed token, its image or −1.
        lengths: tokens of each image.
    """
    shown = shown[shown != _NO_IMAGE]
    begins = np.flatnonzero(np.diff(shown, prepend=_NO_IMAGE))
    order = shown[begins]
    whole = (np.diff(np.append(begins, len(shown))) == lengths[order]).all()
    return order.tolist() if whole else None


def _run(backbone: Any, state: State, kwargs: Kwargs, batch: Batch) -> Any:
    """The backbone's own forward over the packed sequence, with its result laid out as the caller's batch."""
    ids, packing = kwargs["input_ids"], batch.packing
    put = torch.from_numpy(packing.put).to(ids.device)
    take = torch.from_numpy(packing.take).to(ids.device)
    attention.install(backbone.language_model.config._attn_implementation)

    packed = {k: v for k, v in kwargs.items() if k not in _DROPPED}
    packed["input_ids"] = ids.reshape(1, -1)[:, take]
    positions = batch.positions.reshape(len(batch.positions), 1, -1)[..., take.to(batch.positions.device)]
    packed["position_ids"] = positions[-3:] if len(positions) > 1 else positions[0]
    # A mask of four dimensions is taken as it is by every model: none is built. The layout says who sees whom.
    packed["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device)
    packed[attention.LAYOUT] = attention.Layout(packing, ids.device)
    _pick_images(packed, batch.order)
    if kwargs.get("pixel_values") is not None:
        state.stats.images_in += len(batch.first) - len(batch.order)
    output = state.forward(**{**packed, "return_dict": True})

    # Padding gets zeros: a row of them after the last token.
    hidden = output.last_hidden_state[0]
    hidden = torch.cat([hidden, hidden.new_zeros(1, hidden.shape[1])])
    output.last_hidden_state = hidden.index_select(0, put.flatten().to(hidden.device)).view(*put.shape, -1)
    if output.past_key_values is not None:
        _spread_cache(output.past_key_values, put.clamp(max=packing.size - 1))
    if getattr(output, "image_hidden_states", None) is not None:
        at = {batch.first[image]: place for place, image in enumerate(batch.order)}
        output.image_hidden_states = output.image_hidden_states[[at[image] for image in batch.first]]
    return_dict = kwargs.get("return_dict")
    return output if (backbone.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def _pick_images(packed: Kwargs, order: list[int]) -> None:
    """Keep of the images, pixels or features, those of the packed sequence, in its order."""
    pixels, encoded = packed.get("pixel_values"), (packed.get("mm_encoder_outputs") or {}).get("image")
    if encoded is not None:
        features = images.split_features(encoded)
        packed["mm_encoder_outputs"] = {"image": images.Form.of(encoded).join([features[i] for i in order])}
    elif pixels is not None:
        parts, _ = images.split_pixels(pixels, grid := packed.get("image_grid_thw"))
        packed["pixel_values"], grid = images.choose(parts, grid, order)
        if grid is not None:
            packed["image_grid_thw"] = grid


def _spread_cache(cache: Any, put: Tensor) -> None:
    """Give every row its own keys and values, as after a forward of all rows: (1, H, N, D) → (B, H, L, D).

    What padding holds is never looked at; here it is some token's.
    """
    for layer in cache.layers:
        if layer.is_initialized and layer.keys.numel():
            layer.keys, layer.values = (
                x[0].index_select(1, put.flatten().to(x.device)).unflatten(1, put.shape).transpose(0, 1)
                for x in (layer.keys, layer.values)
            )
