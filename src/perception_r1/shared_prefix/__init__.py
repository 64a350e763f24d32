"""Shared prefix: the prompt of a GRPO group is forwarded once, and its answers only beside it, exactly.

`enable(model)` puts a forward of ours in front of the backbone of a Qwen2-VL, Qwen2.5-VL, Qwen3-VL or InternVL model.
It looks at each batch, finds rows that begin with the same tokens and images, and forwards what they share once. What
callers get is what they always got. TRL's trainer, or any loop over padded batches, needs no change:

    stats = shared_prefix.enable(trainer.model, trainer.ref_model)
    trainer.train()
    print(stats)
    # shared prefix: 34,816 tokens in, 6,368 forwarded (5.5 times fewer); 24 images in, 3 encoded

docs/performance.md explains why the result is the same and where the time goes.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

from perception_r1.errors import ModelError
from perception_r1.shared_prefix import attention
from perception_r1.shared_prefix.features import FeatureCache, is_frozen, same_weights, shared_features, tower_of
from perception_r1.shared_prefix.forward import shared_forward
from perception_r1.shared_prefix.pixels import share_pixels
from perception_r1.shared_prefix.state import State, Stats

__all__ = ["Stats", "disable", "enable", "is_enabled", "share_pixels"]

BACKBONES = ("Qwen2VLModel", "Qwen2_5_VLModel", "Qwen3VLModel", "InternVLModel")
# Language models whose attention is what packing computes: causal, nothing learned but queries, keys and values.
TEXT_MODELS = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen2", "qwen3", "llama")
_ENABLED: weakref.WeakSet[Any] = weakref.WeakSet()


def enable(*models: Any, min_saving: float = 0.05, cache_bytes: int = 1 << 28) -> Stats:
    """Share prefixes in every forward of these models from now on.

    Wrappers (PEFT, DDP, FSDP, DeepSpeed) are looked through; before or after wrapping makes no difference. A model that
    is enabled already starts anew.

    Args:
        models: the policy, then any reference models; None is skipped. A reference whose vision tower has the weights
            of the policy's, which is frozen, uses the features that the policy's computed.
        min_saving: share of a batch's tokens that must be saved; below it the plain path is taken.
        cache_bytes: memory for the image features of a frozen vision tower, on its device; 0 keeps none.

    Returns:
        The models' common statistics, counted from here on.

    Raises:
        ModelError: a model is not of a supported family.
    """
    stats, cache = Stats(), FeatureCache(cache_bytes)
    backbones = [_backbone(model) for model in models if model is not None]
    for backbone in backbones:
        _restore(backbone)
        policy = backbones[0]
        owner, kept = None, cache if cache_bytes else None
        if backbone is not policy:
            towers = tower_of(policy), tower_of(backbone)
            if is_frozen(towers[0]) and same_weights(*towers):
                owner = weakref.ref(policy)
            else:
                kept = None
        backbone._shared_prefix = State(backbone.forward, backbone.get_image_features, stats, min_saving, kept, owner)
        for name, function in _METHODS.items():
            backbone._shared_prefix.own[name] = vars(backbone).get(name)
            setattr(backbone, name, _method(backbone, name, function))
        _ENABLED.add(backbone)
    return stats


def disable(*models: Any) -> None:
    """Give models their own forward back. A model that is not enabled, or None, is left as it is."""
    for model in models:
        if model is not None:
            _restore(_backbone(model))
    if not _ENABLED:
        attention.uninstall()


def is_enabled(model: Any) -> bool:
    """Whether a model shares prefixes."""
    return hasattr(_backbone(model), "_shared_prefix")


def _method(backbone: Any, name: str, function: Callable[..., Any]) -> types.MethodType:
    """`function` as a method of this one instance, with the signature of the method that it stands in for.

    A bound method rather than a closure: a deep copy of the model gets one that is bound to the copy.
    """

    @functools.wraps(getattr(type(backbone), name))
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return types.MethodType(method, backbone)


def _restore(backbone: Any) -> None:
    if (state := vars(backbone).pop("_shared_prefix", None)) is None:
        return
    for name, own in state.own.items():
        delattr(backbone, name)
        if own is not None:  # a wrapper's hook that was there before
            setattr(backbone, name, own)
    _ENABLED.discard(backbone)


def _backbone(model: Any) -> Any:
    """The module between a model's LM head and its layers, whatever is wrapped around.

    Raises:
        ModelError: the model is not of a supported family, or its attention is not the one that packing computes.
    """
    for module in model.modules():
        if any(kind.__name__ in BACKBONES for kind in type(module).__mro__):
            text = module.language_model.config
            if text.model_type not in TEXT_MODELS:
                known = ", ".join(TEXT_MODELS)
                raise ModelError(
                    f"shared_prefix: the text model {text.model_type!r} is not supported; these are: {known}"
                )
            if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
                raise ModelError("shared_prefix: sliding-window attention is not supported (config.use_sliding_window)")
            return module
    raise ModelError(
        f"shared_prefix: {type(model).__name__} is not supported; supported are the models over {', '.join(BACKBONES)}"
    )


_METHODS: dict[str, Callable[..., Any]] = {"forward": shared_forward, "get_image_features": shared_features}
