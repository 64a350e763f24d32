"""What an enabled backbone carries, and the one object that its user sees."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_r1.shared_prefix.features import FeatureCache


@dataclass
class Stats:
    """What sharing saved since `enable` (or `reset`). Decoding steps of `generate` are not counted: they share nothing.

    Attributes:
        calls: forward passes looked at, `shared` of them packed.
        tokens_in: tokens the callers asked for, padding not counted; `tokens_forwarded` went through the layers.
        images_in: images the callers passed; `images_encoded` went through the vision tower.
        plain: why the other calls took the plain path, with counts.

    Example:
        >>> str(Stats(calls=4, shared=4, tokens_in=34816, tokens_forwarded=6368, images_in=24, images_encoded=3))
        'shared prefix: 34,816 tokens in, 6,368 forwarded (5.5 times fewer); 24 images in, 3 encoded'
    """

    calls: int = 0
    shared: int = 0
    tokens_in: int = 0
    tokens_forwarded: int = 0
    images_in: int = 0
    images_encoded: int = 0
    plain: Counter[str] = field(default_factory=Counter)

    def reset(self) -> None:
        """Start counting anew."""
        vars(self).update(vars(Stats()))

    def __str__(self) -> str:
        fewer = f" ({self.tokens_in / self.tokens_forwarded:.1f} times fewer)" if self.tokens_forwarded else ""
        return (
            f"shared prefix: {self.tokens_in:,} tokens in, {self.tokens_forwarded:,} forwarded{fewer}; "
            f"{self.images_in:,} images in, {self.images_encoded:,} encoded"
        )


@dataclass
class State:
    """What an enabled backbone carries, as its attribute `_shared_prefix`.

    Attributes:
        forward: its own forward; `features`: its own `get_image_features`.
        stats: shared by the models enabled together.
        min_saving: share of a batch's tokens that packing must save, or the plain path is taken.
        cache: features of images, kept while the vision tower of `owner` is frozen; None keeps none.
        owner: for a reference model that uses the policy's features, the policy's backbone; else None, itself.
        own: the methods that the instance carried before `enable`, None where it had its class's.
        warned: reasons for the plain path that were warned about.
    """

    forward: Callable[..., Any]
    features: Callable[..., Any]
    stats: Stats
    min_saving: float
    cache: FeatureCache | None
    owner: weakref.ref[Any] | None = None  # weak, so that a deep copy of the reference does not copy the policy
    own: dict[str, Any] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    def warn_once(self, reason: str, advice: str) -> None:
        """Tell the user, once, that a setting keeps prefixes from being shared, and what to do about it."""
        if reason not in self.warned:
            self.warned.add(reason)
            warnings.warn(f"shared_prefix: {reason}, so every row is forwarded in full; {advice}", stacklevel=4)
