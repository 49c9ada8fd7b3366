"""The control that takes a picture."""

import gc
import io
from pathlib import Path

import pytest
from PIL import Image

from lcm_nb.kept import NEWEST
from lcm_nb.pictures import read_image
from lcm_nb.settings import EXAMPLE
from lcm_nb.widgets.inputs import ImageInput


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def upload(widget: ImageInput, content: bytes) -> None:
    """Do what the browser does when a file is chosen."""
    widget._handle_custom_msg({"do": "take", "name": "mine.png"}, [memoryview(content)])


@pytest.fixture
def taken():
    """An input, and the values that it took in turn."""
    widget, values = ImageInput("image"), []
    widget.observe(lambda change: values.append(change.new), "value")
    return widget, values


def test_it_starts_with_the_sections_own_picture(taken):
    assert taken[0].value == EXAMPLE


def test_an_upload_becomes_a_path_of_that_picture(taken):
    widget, values = taken
    upload(widget, png("red"))
    assert values == [widget.value]
    assert read_image(widget.value).getpixel((3, 3)) == (255, 0, 0)


def test_the_same_file_is_taken_again_after_the_example(taken):
    widget, values = taken
    upload(widget, png("red"))
    widget._handle_custom_msg({"do": "example"}, [])
    upload(widget, png("red"))
    assert len(values) == 3
    assert values[0] == values[2] != values[1] == EXAMPLE


def test_a_file_that_is_no_picture_is_refused_each_time_and_the_last_one_stays(taken):
    widget, values = taken
    upload(widget, png("red"))
    told = []
    widget.observe(lambda change: told.append(change.new), "error")
    for _ in range(2):
        upload(widget, b"no picture")
    assert len(values) == 1
    assert [text for text in told if text] == [
        "The uploaded file is not a PNG, JPEG or WebP picture; convert it to one of these."
    ] * 2


def test_code_may_set_a_picture_or_a_path(taken, tmp_path):
    widget, _ = taken
    widget.value = Image.new("RGB", (32, 32), "blue")
    assert read_image(widget.value).getpixel((0, 0)) == (0, 0, 255)
    path = tmp_path / "green.png"
    path.write_bytes(png("green"))
    widget.value = path
    assert widget.value == str(path)
    with pytest.raises(ValueError, match="There is no file"):
        widget.value = str(tmp_path / "none.png")
    assert widget.value == str(path)


def test_what_the_page_refuses_is_told_each_time(taken):
    widget, values = taken
    told = []
    widget.observe(lambda change: told.append(change.new), "error")
    for _ in range(2):
        widget._handle_custom_msg({"do": "refuse", "why": "a.tif has 90 MB"}, [])
    assert [text for text in told if text] == ["a.tif has 90 MB"] * 2
    assert values == []


def test_it_says_whose_picture_it_has(taken):
    widget, _ = taken
    assert (widget.label, widget.name) == ("image", "the example")
    upload(widget, png("red"))
    assert widget.name == "a picture of yours"


# -- what is painted in the page ----------------------------------------------------------


def paint(widget: ImageInput, number: int, image: Image.Image, part: str = "end") -> None:
    """Do what the browser does when a stroke ends, or as long as the camera is on."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    widget._handle_custom_msg({"do": "paint", "number": number, "part": part}, [memoryview(buffer.getvalue())])


def test_a_frame_is_taken_and_said_to_be():
    widget = ImageInput("image")
    paint(widget, 7, Image.new("RGB", (64, 64), "blue"))
    assert widget.taken == 7 and widget.name == "painted"
    assert read_image(widget.value).getpixel((3, 3)) == (0, 0, 255)


def test_a_frame_that_is_no_picture_is_refused_and_does_not_block_the_next():
    widget = ImageInput("image")
    widget._handle_custom_msg({"do": "paint", "number": 1}, [memoryview(b"no picture")])
    assert widget.taken == 1 and "is not a PNG" in widget.error and widget.value == EXAMPLE
    paint(widget, 2, Image.new("RGB", (64, 64), "blue"))
    assert widget.taken == 2 and widget.value != EXAMPLE


def test_a_painted_mask_comes_in_the_size_of_its_picture():
    widget = ImageInput("mask", "mask")
    widget.lay_under(Image.new("RGB", (1200, 800), "red"), None)
    with Image.open(io.BytesIO(widget.below)) as below:
        assert below.size == (512, 341)
    assert widget.ink == b"" and widget.laid == 1
    painted = Image.new("RGB", (512, 341))
    painted.paste("white", (0, 0, 256, 341))
    paint(widget, 1, painted)
    mask = read_image(widget.value)
    assert mask.size == (1200, 800)
    assert [mask.getpixel((x, 400)) for x in (10, 590, 610, 1190)] == [(255,) * 3] * 2 + [(0,) * 3] * 2


def test_an_uploaded_picture_is_laid_out_to_draw_on_while_the_drawing_is_open():
    widget = ImageInput("image")
    upload(widget, png("red"))
    assert widget.ink == b""
    widget._handle_custom_msg({"do": "open"}, [])
    with Image.open(io.BytesIO(widget.ink)) as ink:
        assert ink.size == (64, 48)
    paint(widget, 1, Image.new("RGB", (64, 48), "blue"))
    assert widget.laid == 1, "what the page has painted is not sent back to it"


def test_the_camera_gives_frames_until_another_picture_is_chosen():
    widget = ImageInput("image")
    widget.filming = True  # as the page sets it
    paint(widget, 1, Image.new("RGB", (64, 64), "blue"), "camera")
    assert (widget.taken, widget.name, widget.filming) == (1, "the camera", True)
    upload(widget, png("red"))
    assert (widget.name, widget.filming) == ("a picture of yours", False)
    paint(widget, 2, Image.new("RGB", (64, 64), "green"), "camera")  # it was on its way
    assert widget.taken == 2 and read_image(widget.value).getpixel((3, 3)) == (255, 0, 0)


def test_of_many_frames_the_newest_stay_as_files_and_those_whose_path_is_held():
    widget, settings = ImageInput("image"), []
    for number in range(3 * NEWEST):
        paint(widget, number, Image.new("RGB", (64, 64), (number, 0, 7)))
        if number == 5:
            settings.append({"image": widget.value})
    folder = Path(widget.value).parent
    gc.collect()
    assert len([path for path in folder.iterdir() if read_image(path).getpixel((0, 0))[2] == 7]) == NEWEST + 1
    assert read_image(settings[0]["image"]).getpixel((0, 0)) == (5, 0, 7)
    early = Path(settings.pop()["image"])
    gc.collect()
    assert not early.exists() and Path(widget.value).exists()
