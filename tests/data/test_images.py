from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from perception_r1.data.images import image_size, is_upright, model_image, open_image, prepare, resize_for_model
from perception_r1.errors import DataError
from perception_r1.families import FAMILIES, get_family
from perception_r1.types import Sample, TextTarget


def corners(img: Image.Image) -> list[tuple[int, ...]]:
    w, h = img.size
    return [img.getpixel(place) for place in ((2, 2), (w - 3, 2), (2, h - 3), (w - 3, h - 3))]


def quadrants(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red, green / blue, white: every rotation and flip looks different."""
    img = Image.new("RGB", size, "white")
    w, h = size[0] // 2, size[1] // 2
    for colour, place in (("red", (0, 0)), ("lime", (w, 0)), ("blue", (0, h))):
        img.paste(Image.new("RGB", (w, h), colour), place)
    return img


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_agrees_with_pillow_in_size_and_pixels(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    quadrants().save(path, exif=exif, **options)
    with Image.open(path) as img:
        expected = ImageOps.exif_transpose(img).convert("RGB")
    assert image_size(path) == expected.size == ((40, 60) if orientation >= 5 else (60, 40))
    found = open_image(path)
    assert found.size == expected.size
    assert found.tobytes() == expected.tobytes()


def test_orientation_6_puts_the_left_lower_corner_on_top(tmp_path):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to show
    quadrants().save(path, exif=exif)
    assert corners(open_image(path)) == [(0, 0, 255), (255, 0, 0), (255, 255, 255), (0, 255, 0)]


def test_size_is_read_without_decoding(tmp_path):
    path = tmp_path / "a.png"
    quadrants((640, 480)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:200])  # header only: the pixels are not there
    assert image_size(path) == (640, 480)
    with pytest.raises(DataError, match="cannot be decoded"):
        open_image(path)


def test_transparency_lies_on_white(tmp_path):
    rgba = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (0, 0, 5, 10))
    palette = rgba.quantize()
    la = Image.new("LA", (10, 10), (0, 0))
    for name, img, left in (("rgba", rgba, (0, 0, 255)), ("p", palette, (0, 0, 255)), ("la", la, (255, 255, 255))):
        img.save(tmp_path / f"{name}.png")
        found = open_image(tmp_path / f"{name}.png")
        assert found.mode == "RGB"
        assert found.getpixel((1, 1)) == left, name
        assert found.getpixel((8, 8)) == (255, 255, 255), name


def test_deep_greyscale_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tif")
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "float.tif")
    for name, middle in (("deep.png", 100), ("deep.tif", 100), ("float.tif", 128)):
        found = np.asarray(open_image(tmp_path / name))
        assert found[0, :, 0].tolist() == [0, middle, 255], name


def test_cmyk_bilevel_and_grey(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    Image.new("1", (8, 8), 1).save(tmp_path / "bit.png")
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    red = open_image(tmp_path / "cmyk.jpg").getpixel((4, 4))
    assert red[0] > 220 > 40 > max(red[1:])
    assert open_image(tmp_path / "bit.png").getpixel((4, 4)) == (255, 255, 255)
    assert open_image(tmp_path / "grey.png").getpixel((4, 4)) == (77, 77, 77)


def test_what_is_no_image(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    for path, message in (
        (tmp_path / "no.jpg", "no such image"),
        (tmp_path / "text.jpg", "not an image"),
        (tmp_path, "is not"),
    ):
        for function in (image_size, open_image):
            with pytest.raises(DataError, match=message):
                function(path)


def test_a_changed_file_is_measured_again(tmp_path):
    path = tmp_path / "a.png"
    quadrants((60, 40)).save(path)
    assert image_size(path) == (60, 40)
    quadrants((30, 20)).save(path)
    assert image_size(path) == (30, 20)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("size", [(640, 480), (427, 640), (31, 900), (1, 1)])
def test_the_resized_image_has_the_model_size(family, size):
    img = Image.new("RGB", size)
    expected = get_family(family).model_size(size)
    assert resize_for_model(img, family).size == expected
    assert resize_for_model(resize_for_model(img, family), family).size == get_family(family).model_size(expected)


def test_prepare_fills_sizes_and_leaves_pixels_on_disk(save_image):
    path = save_image("a.jpg", (640, 427), orientation=6)
    sample = prepare(Sample("1", "ocr", "", TextTarget("x"), str(path)), "qwen2_5_vl", max_pixels=200_000)
    assert sample.image_size == (427, 640)
    assert sample.model_size == get_family("qwen2_5_vl").model_size((427, 640), max_pixels=200_000)
    assert model_image(sample).size == sample.model_size
    Image.new("RGB", (100, 100)).save(path)
    with pytest.raises(DataError, match=r"100 × 100 pixels after EXIF rotation but sample '1' says 427 × 640"):
        model_image(sample)


def test_real_images(shared_data):
    files = sorted((shared_data / "coco").glob("*2017/*.jpg")) + sorted((shared_data / "ocr").glob("*.tif"))
    assert len(files) == 57
    for path in files[::7]:
        img = open_image(path)
        assert (img.mode, img.size) == ("RGB", image_size(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_picture_that_only_its_tag_turns_upright_is_told(tmp_path, suffix):
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.new("RGB", (40, 40)).save(tmp_path / f"a.{suffix}", exif=exif)
        assert is_upright(tmp_path / f"a.{suffix}") == (orientation == 1)
    Image.new("RGB", (40, 40)).save(tmp_path / f"b.{suffix}")
    assert is_upright(tmp_path / f"b.{suffix}")
