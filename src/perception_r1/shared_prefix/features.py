"""Image features: every distinct image of a call encoded once, and kept from call to call while the tower is frozen."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from perception_r1.shared_prefix import attention, images
from perception_r1.shared_prefix.images import Features
from perception_r1.shared_prefix.state import State

Tensor = torch.Tensor
Tower = tuple[torch.nn.Module, ...]


def shared_features(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Stands in for a backbone's `get_image_features`: same arguments, same features.

    Repeated images come back as the very same tensors, by which the forward recognises them when `generate` has encoded
    the images ahead. `last_hidden_state` is None where features were repeated or kept: nobody reads it.
    """
    state: State = self._shared_prefix
    kwargs = images.named(state.features, args, kwargs)
    kwargs.pop(attention.LAYOUT, None)  # the backbone hands all its keywords on; the tower's attention is its own
    pixels, grid = kwargs.get("pixel_values"), kwargs.get("image_grid_thw")
    tower = tower_of(self)
    recorded = kwargs.get("output_hidden_states") or kwargs.get("output_attentions")
    if pixels is None or recorded or kwargs.get("return_dict") is False or any(map(drops, tower)):
        count = 0 if pixels is None else len(pixels if grid is None else grid)
        state.stats.images_in += count
        state.stats.images_encoded += count
        return state.features(**kwargs)

    parts, labels = images.split_pixels(pixels, grid)
    first = images.first_equal(parts, labels)
    distinct = sorted(set(first))
    keys: dict[int, bytes] = {}
    kept: dict[int, Features] = {}
    owner = tower if state.owner is None else tower_of(state.owner())
    if (cache := _usable_cache(state, owner)) is not None:
        keys = {i: digest(owner, parts[i], labels[i]) for i in distinct}
        kept = {i: hit for i in distinct if (hit := cache.get(keys[i])) is not None}
        # Running a sharded tower is a collective act: all ranks run it, on all their images, or none does.
        if is_sharded(tower) and not agree(len(kept) == len(distinct), pixels.device):
            kept = {}
    missing = [i for i in distinct if i not in kept]
    state.stats.images_in += len(parts)
    state.stats.images_encoded += len(missing)

    form = cache.form if cache is not None else None
    if missing:
        if len(missing) < len(parts):
            kwargs["pixel_values"], kwargs["image_grid_thw"] = images.choose(parts, grid, missing)
            if grid is None:
                del kwargs["image_grid_thw"]
        output = state.features(**kwargs)
        form, encoded = images.Form.of(output), images.split_features(output)
        kept.update(zip(missing, encoded, strict=True))
        if cache is not None:
            cache.form = form
            for index, features in zip(missing, encoded, strict=True):
                cache.put(keys[index], features)
        if len(missing) == len(parts):
            return output
    assert form is not None  # nothing was missing, so something was kept
    return form.join([kept[i] for i in first])


class FeatureCache:
    """Features of a frozen vision tower, by content of the image; the least recently used go first.

    Args:
        limit: bytes of features kept.

    Attributes:
        form: of the outputs that the features came from.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.form: images.Form | None = None
        self._kept: OrderedDict[bytes, Features] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Features | None:
        """The features kept under `key`, or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: bytes, features: Features) -> None:
        """Keep features, cut off from any graph and from the batch they were computed in."""
        self.drop(key)
        self._kept[key] = tuple(f.detach().clone() for f in features)
        self.bytes += _size(features)
        while self.bytes > self.limit:
            self.drop(next(iter(self._kept)))

    def drop(self, key: bytes) -> None:
        """Forget `key`, if it is there."""
        if (features := self._kept.pop(key, None)) is not None:
            self.bytes -= _size(features)


def _size(features: Features) -> int:
    return sum(f.numel() * f.element_size() for f in features)


def _usable_cache(state: State, owner: Tower) -> FeatureCache | None:
    """The cache, if features are constants now. Tensors made in inference mode can never be used in training."""
    usable = state.cache is not None and not torch.is_inference_mode_enabled() and is_frozen(owner)
    return state.cache if usable else None


def digest(tower: Tower, image: Tensor, label: object) -> bytes:
    """Key of an image's features: its bytes, shape and grid (`label`), and all that its features depend on besides."""
    raw = image.detach().contiguous().view(torch.uint8).cpu().numpy().data
    device = image.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    weights = _weights(tower)
    # A sharded parameter is swapped for its gathered self at every use; its version would say nothing.
    version = 0 if is_sharded(tower) else sum(p._version for p in weights)
    told = f"{label} {tuple(image.shape)} {image.dtype} {autocast} {weights[0].dtype} {weights[0].device} {version}"
    return hashlib.blake2b(raw, digest_size=16, key=hashlib.blake2b(told.encode(), digest_size=32).digest()).digest()


def tower_of(backbone: Any) -> Tower:
    """The modules that turn pixels into features: the vision tower, and the projector where it is apart (InternVL)."""
    if hasattr(backbone, "visual"):
        return (backbone.visual,)
    return backbone.vision_tower, backbone.multi_modal_projector


def is_frozen(tower: Tower) -> bool:
    """Whether features are a constant of the image: nothing trainable, and no adapter that could be switched."""
    adapted = any(hasattr(module, "base_layer") for part in tower for module in part.modules())
    return not adapted and not any(p.requires_grad for p in _weights(tower))


def drops(module: torch.nn.Module) -> bool:
    """Whether dropout is active anywhere in a module: two rows with the same prefix then draw different noise."""
    return any(
        m.training
        and (
            (isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p > 0)
            or (isinstance(p := getattr(m, "attention_dropout", 0), float | int) and p > 0)
        )
        for m in module.modules()
    )


def is_sharded(tower: Tower) -> bool:
    """Whether running the tower is a collective act: parameters of FSDP2, ZeRO-3 or FSDP1."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") or hasattr(p, "_local_shard") for p in _weights(tower))


def agree(flag: bool, device: torch.device) -> bool:
    """Whether `flag` holds on every rank."""
    vote = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MIN)
    return bool(vote.item())


def same_weights(one: Tower, other: Tower) -> bool:
    """Whether two towers hold equal weights.

    A trainer shards its reference model when it is made and the policy when training starts, so either may be sharded.
    Every rank goes through all parameters, since gathering one takes all ranks; and all must agree.
    """
    ours, theirs = _weights(one), _weights(other)
    equal = len(ours) == len(theirs) and False not in [_equal(a, b) for a, b in zip(ours, theirs, strict=True)]
    return agree(equal, theirs[0].device) if is_sharded(one) or is_sharded(other) else equal


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, DTensor) != isinstance(b, DTensor):
        a, b = (p.full_tensor() if isinstance(p, DTensor) else p for p in (a, b))
    a, b = (p.to_local() if isinstance(p, DTensor) else getattr(p, "ds_tensor", p) for p in (a, b))
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _weights(tower: Tower) -> list[Tensor]:
    return [p for part in tower for p in part.parameters()]
