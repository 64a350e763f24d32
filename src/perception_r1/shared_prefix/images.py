"""Images of a batch: which of them are the same, and their features taken apart and put together again."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor
Features = tuple[Tensor, ...]  # of one image: its tokens' embeddings (tokens, H), then one such per DeepStack layer


def first_equal(tensors: Sequence[Tensor], labels: Sequence[object] | None = None) -> list[int]:
    """For each tensor, the index of the first one that equals it, bit pattern aside (−0 is 0; NaN equals nothing).

    Only tensors that agree on a few sampled values are compared in full, so different images cost nothing and equal
    ones one read.

    Args:
        tensors: of any shapes.
        labels: of each tensor, what must be equal besides: two blank images of 2×8 and 4×4 patches have equal patches.

    Example:
        >>> a, b = torch.zeros(2, 3), torch.ones(2, 3)
        >>> first_equal([a, b, a.clone(), b])
        [0, 1, 0, 1]
    """
    shapes: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        shapes[(labels[index] if labels else None, *tensor.shape, tensor.dtype)].append(index)
    found = list(range(len(tensors)))
    for indices in shapes.values():
        if len(indices) == 1:
            continue
        step = max(1, tensors[indices[0]].numel() // 64)
        samples = torch.stack([tensors[i].detach().reshape(-1)[::step] for i in indices]).float().tolist()
        seen: dict[tuple[float, ...], list[int]] = defaultdict(list)
        for index, sample in zip(indices, samples, strict=True):
            firsts = seen[tuple(sample)]
            for first in firsts:
                if tensors[first] is tensors[index] or torch.equal(tensors[first], tensors[index]):
                    found[index] = first
                    break
            else:
                firsts.append(index)
    return found


def named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, all by name."""
    if not args:
        return kwargs
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    return {**{k: v for k, v in bound.items() if k != "kwargs"}, **bound.get("kwargs", {})}


def split_pixels(pixel_values: Tensor, grid_thw: Tensor | None) -> tuple[list[Tensor], list[object]]:
    """One tensor an image, its patches where there is a grid (Qwen) and a tile where not (InternVL); and the grids."""
    if grid_thw is None:
        return list(pixel_values.unbind(0)), [None] * len(pixel_values)
    return list(torch.split(pixel_values, grid_thw.prod(-1).tolist())), [tuple(grid) for grid in grid_thw.tolist()]


def choose(parts: Sequence[Tensor], grid_thw: Tensor | None, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """`pixel_values` and grid of some of a batch's images, in the order given."""
    if grid_thw is None:
        return torch.stack([parts[i] for i in indices]), None
    return torch.cat([parts[i] for i in indices]), grid_thw[list(indices)]


def split_features(output: Any) -> list[Features]:
    """The features of each image in what `get_image_features` returns."""
    pooled = list(output.pooler_output)
    sizes = [len(image) for image in pooled]
    deep = getattr(output, "deepstack_features", None) or []
    layers = [torch.split(layer, sizes) if isinstance(layer, Tensor) else layer for layer in deep]
    return list(zip(pooled, *layers, strict=True))


@dataclass(frozen=True)
class Form:
    """How `get_image_features` of a model hands features out.

    Attributes:
        kind: class of the output.
        stacked: whether `pooler_output` is one tensor (InternVL) or a list with one tensor an image.
        levels: DeepStack layers.
        flat: whether each of these is one tensor with all images' tokens (transformers before 5.4) or a list as well.
    """

    kind: type
    stacked: bool
    levels: int
    flat: bool

    @classmethod
    def of(cls, output: Any) -> Form:
        """The form of an output."""
        deep: Any = getattr(output, "deepstack_features", None) or ()
        flat = len(deep) > 0 and isinstance(deep[0], Tensor)
        return cls(type(output), isinstance(output.pooler_output, Tensor), len(deep), flat)

    def join(self, features: Sequence[Features]) -> Any:
        """An output with the features of each image, repeats allowed: the inverse of `split_features`."""
        pooled = [image[0] for image in features]
        output = self.kind(pooler_output=torch.stack(pooled) if self.stacked else pooled)
        if self.levels:
            layers = [[image[1 + level] for image in features] for level in range(self.levels)]
            output.deepstack_features = [torch.cat(layer) for layer in layers] if self.flat else layers
        return output
