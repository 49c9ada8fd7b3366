"""Pictures that users bring: what is read, what is refused, and what becomes of it."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import lcm_nb
from lcm_nb import pictures as images


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    """A red picture, 64 x 32, with a blue left half."""
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (0, 0, 32, 32))
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_paths_bytes_and_images_are_read(tmp_path, picture, kind):
    path = tmp_path / "picture"
    path.write_bytes(encoded(picture, kind))
    for source in (path, str(path), path.read_bytes(), picture):
        found = images.read_image(source)
        assert (found.mode, found.size) == ("RGB", (64, 32))
        assert found.getpixel((5, 5))[2] > 200 > found.getpixel((5, 5))[0]


def test_a_camera_s_orientation_is_honoured(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = images.read_image(encoded(picture, "JPEG", exif=exif))
    assert found.size == (32, 64)
    assert found.getpixel((16, 5))[2] > 200  # what was left is on top


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_turns_white(mode):
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0)).convert(mode)
    if mode == "P":
        image.info["transparency"] = image.getpixel((0, 0))
    assert images.read_image(encoded(image)).getpixel((3, 3)) == (255, 255, 255)


def text_of(letters: int) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("comment", "a" * letters, zip=True)
    return chunks


def refusals(picture):
    whole = encoded(picture)
    return {
        "a web address; download": "https://example.org/fox.png",
        "There is no file nowhere.png": "nowhere.png",
        "not a PNG, JPEG or WebP": encoded(picture, "GIF"),
        "is damaged": whole[: len(whole) // 2],
        "is no picture; give a path": 7,
        "megapixels": encoded(Image.new("1", (9000, 9000))),
        "too many pixels; at most 40 megapixels": encoded(Image.new("1", (20000, 20000))),
        "carries a text of megabytes; save it anew": encoded(picture, pnginfo=text_of(2_000_000)),
        "at least 16": encoded(Image.new("RGB", (8, 8))),
    }


@pytest.mark.parametrize("message", list(refusals(Image.new("RGB", (20, 20)))))
def test_what_is_refused_says_why_and_what_to_do(picture, message):
    with pytest.raises(ValueError, match=message):
        images.read_image(refusals(picture)[message])


def test_a_large_file_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    path = tmp_path / "large.png"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ValueError, match="Make it smaller"):
        images.read_image(path)


@pytest.mark.parametrize(
    ("size", "expected"), [((256, 256), (256, 256)), ((1600, 1200), (288, 224)), ((300, 900), (160, 448))]
)
def test_fitting_keeps_proportions(size, expected):
    found = images.fit_image(Image.new("RGB", size), side=256, multiple=32)
    assert found.size == expected


def test_fitting_cuts_edges_and_stretches_nothing():
    circle = np.zeros((600, 1000, 3), np.uint8)
    yy, xx = np.mgrid[:600, :1000]
    circle[(yy - 300) ** 2 + (xx - 500) ** 2 < 200**2] = 255
    found = np.asarray(images.fit_image(Image.fromarray(circle), side=256, multiple=64))[..., 0] > 127
    width, height = found.any(0).sum(), found.any(1).sum()
    assert abs(int(width) - int(height)) <= 1


def test_canny_is_the_guide_s_map(picture):
    import cv2

    expected = cv2.Canny(np.array(picture), 100, 200)
    found = np.asarray(images.canny(picture))
    assert found.shape == (32, 64, 3)
    assert np.array_equal(found, np.stack([expected] * 3, axis=2))
    assert found.any()


@pytest.mark.parametrize(("low", "high"), [(-1, 200), (100, 1001), (200, 100)])
def test_canny_refuses_thresholds_out_of_order(picture, low, high):
    with pytest.raises(ValueError, match=str(low) if low != 100 else str(high)):
        images.canny(picture, low, high)


def test_a_picture_from_memory_is_kept_as_a_file(picture):
    path = images.keep_image(picture)
    assert images.keep_image(picture) == path
    assert np.array_equal(images.read_image(path), picture)
    assert images.keep_image(path) == path


def test_the_guide_s_own_picture_is_taken_from_the_hub_s_cache(tmp_path, picture, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="documentation-images is not in .*, and HF_HUB_OFFLINE forbids downloads"):
        lcm_nb.example_image("controlnet", "guide")
    for repository, file in (
        ("datasets--huggingface--documentation-images", "diffusers/input_image_vermeer.png"),
        ("models--Adapter--t2iadapter", "figs_SDXLV1.0/org_canny.jpg"),
    ):
        folder, revision = tmp_path / repository, 40 * "0"
        kept = folder / "snapshots" / revision / file
        kept.parent.mkdir(parents=True)
        picture.save(kept, format="png")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(revision)
    assert np.array_equal(lcm_nb.example_image("controlnet", "guide"), picture.resize((512, 512)))
    assert np.array_equal(lcm_nb.example_image("t2i-adapter", "guide"), picture)


def test_a_section_without_a_picture_has_no_example():
    with pytest.raises(ValueError, match="'style-lora' starts from no picture; these sections do: image-to-image"):
        lcm_nb.example_image("style-lora")


# -- every mode of a picture ---------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 255, 256).round().astype(np.uint8), (64, 1))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LA", "La", "PA", "I", "F"]
)
def test_every_mode_of_pil_comes_in_as_it_looks(mode):
    grey = Image.fromarray(RAMP)
    way = {"RGBa": ["RGBA"], "La": ["LA"], "PA": ["RGBA", "P"], "HSV": ["RGB"], "LA": ["RGBA"]}.get(mode, ["RGB", "L"])
    for step in way[: 1 if mode not in ("1", "I", "F") else 2]:
        grey = grey.convert(step)
    seen = np.asarray(images.read_image(grey.convert(mode))).astype(int)
    slack = {"1": 128, "P": 16, "PA": 16}.get(mode, 4)  # dithered; rounding of colour spaces
    assert seen.shape == (64, 256, 3)
    assert np.abs(seen.mean(0)[..., 0] - RAMP[0]).max() <= slack


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.linspace(0, 65535, 256), np.uint16),
        (np.linspace(0, 65535, 256), np.int32),
        (np.linspace(0, 255, 256), np.int32),
        (np.linspace(0, 1, 256), np.float32),
        (np.linspace(0, 255, 256), np.float32),
        (np.linspace(-3, 7, 256), np.float32),
        (np.linspace(0, 2**31 - 1, 256), np.int32),
    ],
)
def test_deep_pictures_come_in_by_their_range_and_say_so(values, kind):
    deep = Image.fromarray(np.tile(values.astype(kind), (64, 1)))
    seen = images.read_image(deep)
    assert np.abs(np.asarray(seen)[..., 0].astype(int) - RAMP).max() <= 1
    assert images.REDUCED in seen.info
    assert images.REDUCED in images.read_image(images.keep_image(deep)).info  # from memory by a file, too


def test_a_deep_file_is_not_clipped(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))).save(path)
    assert np.abs(np.asarray(images.read_image(path))[0, :, 0].astype(int) - RAMP[0]).max() <= 1


def test_a_closed_picture_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "closed.png"
    Image.new("RGB", (32, 32)).save(path)
    picture = Image.open(path)
    picture.close()
    with pytest.raises(ValueError, match=r"cannot be read .* it may be closed"):
        images.read_image(picture)


def test_a_path_is_checked_without_decoding_it(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("RGB", (32, 32)).save(path)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    assert images.keep_image(path) == str(path)
