"""Model families: which coordinates a model answers in, how it writes a box, and the grid its images are resized to.

A family is a row of a table, never a guess from the text. A recipe can change or add one:

    family: {base: qwen3_vl, name: my_vl, frame: resized, grid: 28}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, TypeAlias, get_args

from perception_r1.answers.formats import FORMS, Form, WrittenEntry, write_objects
from perception_r1.errors import DataError, RecipeError
from perception_r1.types import Frame, FrameKind, Sample, Size

_QWEN_IMAGE_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
_INTERNVL_IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
_GIVE_SIZES = "give model_size (model_width and model_height), or min_pixels and max_pixels"
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models answers.

    Attributes:
        name: key in `FAMILIES`, or the user's own.
        frame: coordinate space of the answer.
        answer_format: name of the form of answer, see `perception_r1.answers.formats`: ``qwen_ref_box`` (special tokens
            round phrase and box), ``json`` (a list of objects), ``internvl`` (``<ref>`` and ``<box>``).
        box_key, point_key: keys of a JSON entry.
        grid: both sides of the image that the model sees are multiples of it (patch × merge).
        min_pixels, max_pixels: limits of the resized image's area; the defaults are those of PR1's training.
        published_pixels: the same limits of the published processor, by which a program resizes that sets none.
            Equal to the two above as soon as they are given and not assumed (`with_limits`).
        image_tokens: must never be sampled: one in an answer breaks every later forward pass.
        end_tokens: what ends an answer.
        model_types: values of ``model_type`` in a Hugging Face ``config.json``.
        explain_form: whether prompts describe the form in full, for models without a habit of their own.
    """

    name: str
    frame: FrameKind
    answer_format: str
    box_key: str = "bbox_2d"
    point_key: str = "point_2d"
    grid: int = 28
    min_pixels: int = 3_136
    max_pixels: int = 1_000_000
    published_pixels: tuple[int, int] = (3_136, 12_845_056)
    image_tokens: tuple[str, ...] = _QWEN_IMAGE_TOKENS
    end_tokens: tuple[str, ...] = _END_TOKENS
    model_types: tuple[str, ...] = ()
    explain_form: bool = False

    @property
    def form(self) -> Form:
        """The form of answer."""
        return FORMS[self.answer_format]

    def write(self, entries: Iterable[WrittenEntry], phrase: str = "object") -> str:
        """Write entries (in the frame, rounded) as a model of the family does; ``phrase`` labels the unlabelled.

        Example:
            >>> FAMILIES["qwen3_vl"].write([((1, 2, 3, 4), "cat")])
            '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'
        """
        return write_objects(entries, self.answer_format, phrase=phrase, box_key=self.box_key, point_key=self.point_key)

    def model_size(self, image_size: Size, min_pixels: int | None = None, max_pixels: int | None = None) -> Size:
        """Size (width, height) that the model sees, by the rounding of Qwen's ``smart_resize``.

        Args:
            image_size: the original image, (width, height) in pixels.
            min_pixels, max_pixels: limits other than the family's.

        Raises:
            DataError: an empty image, or one more than 200 times longer than wide (the processors refuse it too).

        Example:
            >>> FAMILIES["qwen2_5_vl"].model_size((640, 480))
            (644, 476)
        """
        low = self.min_pixels if min_pixels is None else min_pixels
        high = self.max_pixels if max_pixels is None else max_pixels
        return _smart_resize(image_size[0], image_size[1], self.grid, low, high)

    def resized_size(self, image_size: Size, min_pixels: int | None = None, max_pixels: int | None = None) -> Size:
        """Size to resize an image to so that a processor with the same limits leaves it as it is.

        It differs from ``model_size`` for images so long that one rounding leaves their area outside the limits.

        Raises:
            DataError: as ``model_size``; or limits between which no multiple of the grid lies.
        """
        size = self.model_size(image_size, min_pixels, max_pixels)
        for _ in range(100):
            again = self.model_size(size, min_pixels, max_pixels)
            if again == size:
                return size
            size = again
        low, high = min_pixels or self.min_pixels, max_pixels or self.max_pixels
        raise DataError(
            f"an image of {image_size[0]} × {image_size[1]} pixels has no size in multiples of {self.grid} between "
            f"min_pixels {low:,} and max_pixels {high:,} (widen them)"
        )

    def with_limits(self, min_pixels: int | None = None, max_pixels: int | None = None) -> Family:
        """The family with limits that are known; one that is None stays as it was.

        Example:
            >>> FAMILIES["qwen2_5_vl"].with_limits(max_pixels=12_845_056).seen_size((1920, 1080))
            (1932, 1092)
        """
        low, high = self.published_pixels
        return replace(
            self,
            min_pixels=self.min_pixels if min_pixels is None else min_pixels,
            max_pixels=self.max_pixels if max_pixels is None else max_pixels,
            published_pixels=(low if min_pixels is None else min_pixels, high if max_pixels is None else max_pixels),
        )

    def seen_size(self, image_size: Size, fix: str = _GIVE_SIZES) -> Size:
        """``model_size`` where it does not depend on which limits the program has that resizes the image.

        Args:
            image_size: the original image, (width, height) in pixels.
            fix: what the error tells the user to do.

        Raises:
            DataError: the published processor's limits give another size than those of PR1's training.
        """
        assumed, published = self.model_size(image_size), self.model_size(image_size, *self.published_pixels)
        if assumed != published:
            low, high = self.published_pixels
            raise DataError(
                f"an image of {image_size[0]} × {image_size[1]} pixels is seen at {assumed[0]} × {assumed[1]} "
                f"({self.min_pixels:,} to {self.max_pixels:,} pixels) or at {published[0]} × {published[1]} (the "
                f"published processor's {low:,} to {high:,}), and boxes are pixels of what is seen: {fix}"
            )
        return assumed

    def frame_of(self, sample: Sample) -> Frame:
        """The frame that a model of this family answers in, for this sample's image.

        Raises:
            DataError: the sample has no image size; or the size that the model sees depends on limits that nobody gave.
        """
        if sample.image_size is None:
            raise DataError(f"sample {sample.id!r} needs the size of its image: give 'width' and 'height'")
        if self.frame != "resized":
            return Frame(self.frame, sample.image_size, sample.model_size)
        return Frame("resized", sample.image_size, sample.model_size or self.seen_size(sample.image_size))


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("qwen2_vl", "norm1000", "qwen_ref_box", model_types=("qwen2_vl",)),
        Family("qwen2_5_vl", "resized", "json", model_types=("qwen2_5_vl",)),
        Family(
            "qwen3_vl",
            "norm1000",
            "json",
            grid=32,
            published_pixels=(65_536, 16_777_216),
            model_types=("qwen3_vl", "qwen3_vl_moe"),
        ),
        Family(
            "internvl",
            "norm1000",
            "internvl",
            image_tokens=_INTERNVL_IMAGE_TOKENS,
            end_tokens=(*_END_TOKENS, "</s>"),
            model_types=("internvl", "internvl_chat"),
        ),
        Family(
            "pixel",
            "original",
            "json",
            image_tokens=_QWEN_IMAGE_TOKENS + _INTERNVL_IMAGE_TOKENS,
            explain_form=True,
        ),
        Family(
            "unit",
            "unit",
            "json",
            image_tokens=_QWEN_IMAGE_TOKENS + _INTERNVL_IMAGE_TOKENS,
            explain_form=True,
        ),
    )
}

FamilyLike: TypeAlias = str | Mapping[str, Any] | Family


def get_family(family: FamilyLike) -> Family:
    """A family by name, from a recipe's table, or as it is.

    Args:
        family: a name of `FAMILIES`; or a mapping with ``base`` (a name) and the fields of `Family` to change.

    Raises:
        RecipeError: unknown name or key, or a value that does not fit.

    Example:
        >>> get_family({"base": "qwen3_vl", "frame": "resized"}).grid
        32
    """
    if isinstance(family, Family):
        return family
    if isinstance(family, str):
        if family not in FAMILIES:
            raise RecipeError(f"unknown family {family!r} (known: {', '.join(FAMILIES)})")
        return FAMILIES[family]
    if not isinstance(family, Mapping):
        raise RecipeError(f"family must be a name or a table with 'base', not {family!r}")
    changes = dict(family)
    base = changes.pop("base", None)
    if not isinstance(base, str):
        raise RecipeError(f"family: 'base' must name one of {', '.join(FAMILIES)}")
    values = {key: _checked(key, value) for key, value in changes.items()}
    limits = {key: values.pop(key, None) for key in ("min_pixels", "max_pixels")}
    return replace(get_family(base), **values).with_limits(**limits)


def family_of_model_type(model_type: str) -> Family:
    """The family of a Hugging Face ``model_type``.

    Raises:
        RecipeError: none is known for it; the recipe then has to say.
    """
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    raise RecipeError(f"no family is known for model_type {model_type!r}: name one ({', '.join(FAMILIES)})")


def _checked(key: str, value: Any) -> Any:
    """A recipe's value for one field of a family, in the field's type."""
    known = {field.name: field.type for field in fields(Family) if field.name != "published_pixels"}
    if key not in known:
        raise RecipeError(f"family: unknown key {key!r} (known: base, {', '.join(known)})")
    written = tuple(name for name, form in FORMS.items() if form.can_write)
    choices = {"frame": get_args(FrameKind), "answer_format": written}.get(key)
    if choices is not None and value not in choices:
        raise RecipeError(f"family: {key} must be one of {', '.join(choices)}, not {value!r}")
    if known[key] == "int":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError(f"family: {key} must be a positive whole number, not {value!r}")
    elif known[key] == "tuple[str, ...]":
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise RecipeError(f"family: {key} must be a list of strings, not {value!r}")
        return tuple(value)
    elif known[key] == "bool":
        if not isinstance(value, bool):
            raise RecipeError(f"family: {key} must be true or false, not {value!r}")
    elif not isinstance(value, str) or not value:
        raise RecipeError(f"family: {key} must be text, not {value!r}")
    return value


@lru_cache(maxsize=4096)
def _smart_resize(width: int, height: int, grid: int, min_pixels: int, max_pixels: int) -> Size:
    """Both sides rounded to the grid, then scaled until the area is within the limits, as Qwen-VL's processors do."""
    if width < 1 or height < 1:
        raise DataError(f"an image of {width} × {height} pixels has no area")
    if max(width, height) / min(width, height) > 200:
        raise DataError(f"an image of {width} × {height} pixels is too long: at most 200 times longer than wide")
    new_width, new_height = round(width / grid) * grid, round(height / grid) * grid
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width = max(grid, math.floor(width / shrink / grid) * grid)
        new_height = max(grid, math.floor(height / shrink / grid) * grid)
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width = math.ceil(width * grow / grid) * grid
        new_height = math.ceil(height * grow / grid) * grid
    return new_width, new_height
