"""Images: their size from the header, opened late as upright RGB, resized once to the size a model sees.

Ground truth refers to the image as a person sees it, that is after EXIF rotation, so every function here works on the
rotated image. Nothing is decoded until pixels are needed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from perception_r1.errors import DataError
from perception_r1.families import FamilyLike, get_family
from perception_r1.types import Sample, Size

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = {5, 6, 7, 8}


def image_size(path: str | os.PathLike[str]) -> Size:
    """(width, height) after EXIF rotation, read from the file's header only.

    Raises:
        DataError: no such file, or not an image.
    """
    try:
        status = Path(path).stat()
    except OSError:
        raise DataError("no such image file", path=path) from None
    return _header_size(os.fspath(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)  # many rows share an image; a changed file has another key
def _header_size(path: str, mtime_ns: int, n_bytes: int) -> Size:
    with _opened(path) as img:
        width, height = img.size
        return (height, width) if _orientation(img) in _SWAPS_SIDES else (width, height)


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image as 8-bit RGB, rotated as its EXIF tag says, transparency laid on white.

    Palette, greyscale, 16-bit, CMYK and bilevel images are converted; of an animation the first frame is taken.

    Raises:
        DataError: no such file, not an image, or broken data.
    """
    with _opened(path) as img:
        orientation = _orientation(img)  # before load(), which lets Pillow drop the tag of some formats
        try:
            img.load()
            rgb = to_rgb(img)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"the image cannot be decoded: {error} (replace the file)", path=path) from None
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def to_rgb(img: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB; see ``open_image``. Returns a new image."""
    if img.mode.startswith("I") or img.mode == "F":
        return _deep_grey_to_8_bit(img).convert("RGB")
    if img.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in img.info:
        rgba = img.convert("RGBA")
        white = Image.new("RGB", img.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return img.convert("RGB")


def is_upright(path: str | os.PathLike[str]) -> bool:
    """Whether a program that does not know EXIF shows the image as a person sees it.

    Raises:
        DataError: no such file, or not an image.
    """
    with _opened(path) as img:
        if img.format == "TIFF":  # Pillow rotates it itself, others do not
            return img.getexif().get(_ORIENTATION_TAG, 1) not in _UPRIGHT
        return _orientation(img) == 1


def resize_for_model(
    img: Image.Image,
    family: FamilyLike,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """``img`` at the size that a model of ``family`` sees, bicubic as in Qwen's processor.

    Done once, up front, it leaves nothing to resize for the processors of transformers, vLLM and others, so all see
    the same pixels. The result's size equals ``family.resized_size(img.size, min_pixels, max_pixels)``.
    """
    return _resized(img, get_family(family).resized_size(img.size, min_pixels=min_pixels, max_pixels=max_pixels))


def prepare(
    sample: Sample,
    family: FamilyLike,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Sample:
    """``sample`` with ``image_size`` and ``model_size`` filled in; the pixels stay on disk until ``model_image``."""
    size = sample.image_size if sample.image_size is not None else image_size(_image_path(sample))
    return replace(
        sample,
        image_size=size,
        model_size=get_family(family).resized_size(size, min_pixels=min_pixels, max_pixels=max_pixels),
    )


def model_image(sample: Sample) -> Image.Image:
    """The image of a prepared sample at its ``model_size`` (at its own size where that is None).

    Raises:
        DataError: the file is missing or broken, or is not of the size that the sample's boxes refer to.
    """
    path = _image_path(sample)
    img = open_image(path)
    if sample.image_size is not None and img.size != sample.image_size:
        raise DataError(
            f"the image is {img.size[0]} × {img.size[1]} pixels after EXIF rotation but sample {sample.id!r} says "
            f"{sample.image_size[0]} × {sample.image_size[1]} (was it replaced?)",
            path=path,
        )
    return img if sample.model_size is None else _resized(img, sample.model_size)


def _resized(img: Image.Image, size: Size) -> Image.Image:
    return img if img.size == size else img.resize(size, Image.Resampling.BICUBIC)


def _image_path(sample: Sample) -> str:
    if sample.image is None:
        raise DataError(f"sample {sample.id!r} has no image", field="image")
    return sample.image


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise DataError("no such image file", path=path) from None
    except (UnidentifiedImageError, IsADirectoryError):
        raise DataError("is not an image that Pillow can read", path=path) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the image cannot be opened: {error}", path=path) from None


def _orientation(img: Image.Image) -> int:
    """The EXIF orientation still to be applied, from what the header holds.

    Pillow rotates a TIFF itself, size included. Asking a PNG without EXIF in its header for it would decode the whole
    image. A broken tag counts as none.
    """
    if img.format == "TIFF" or (img.format == "PNG" and "exif" not in img.info):
        return 1
    try:
        orientation = img.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _deep_grey_to_8_bit(img: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bits, or floats, as 8 bits: 0..65535 → 0..255, floats of at most 1 as 0..1.

    Pillow's own conversion clips at 255, which turns a 16-bit scan white.
    """
    import numpy as np

    values = np.asarray(img).astype(np.float64)
    top = float(values.max(initial=0.0))
    if img.mode == "F" and top <= 1.0:
        scale = 255.0
    elif img.mode in {"F", "I"} and top <= 255.0:
        scale = 1.0  # eight bits in a wide type
    else:
        scale = 255.0 / 65535.0
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8), mode="L")
