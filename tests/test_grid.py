"""Labelled grids: what stands where, and which sweeps are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lcm_nb.grid import LINE, MARGIN, Grid, sweep_axes

WIDTH, HEIGHT = 200, 120


def result(shade: int):
    return SimpleNamespace(image=Image.new("RGB", (WIDTH, HEIGHT), (shade, 0, 0)))


def grid_of(columns, rows=None) -> Grid:
    """A grid whose pictures are 100, 101, ... red, row by row."""
    count = len(columns[1]) * (len(rows[1]) if rows else 1)
    return Grid(columns, rows, [result(100 + i) for i in range(count)])


def ink(image: Image.Image) -> np.ndarray:
    """Where something is drawn on the white sheet, (H, W) bool."""
    return (np.asarray(image.convert("L")) < 250).copy()


def header(grid: Grid, column: int) -> np.ndarray:
    """The ink above a column, as wide as its picture."""
    left = grid.image.width - (len(grid.columns[1]) - column) * (WIDTH + MARGIN)
    return ink(grid.image)[:LINE, left : left + WIDTH]


# -- the axes of a sweep ---------------------------------------------------------------


def test_the_first_list_runs_across_and_the_second_down():
    columns, rows, cases = sweep_axes({"steps": [1, 2], "seed": 3, "scale": (4, 8)})
    assert (columns, rows) == (("steps", [1, 2]), ("scale", [4, 8]))
    assert cases == [
        {"seed": 3, "steps": 1, "scale": 4},
        {"seed": 3, "steps": 2, "scale": 4},
        {"seed": 3, "steps": 1, "scale": 8},
        {"seed": 3, "steps": 2, "scale": 8},
    ]


def test_one_list_makes_one_row():
    assert sweep_axes({"seed": range(2)}) == (("seed", [0, 1]), None, [{"seed": 0}, {"seed": 1}])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({}, "0 settings are lists; give one or two"),
        ({"steps": 4, "prompt": "a cat"}, "0 settings are lists; give one or two"),
        ({"steps": [1], "scale": [1], "seed": [1]}, "3 settings are lists; give one or two"),
        ({"steps": [1, 2], "scale": []}, "scale is an empty list; give at least one value"),
    ],
)
def test_other_sweeps_are_refused(lists, message):
    with pytest.raises(ValueError, match=message):
        sweep_axes(lists)


# -- the drawn sheet -------------------------------------------------------------------


def test_pictures_stand_where_their_settings_say():
    grid = grid_of(("steps", [1, 2, 4]), ("scale", [1, 8]))
    left = grid.image.width - 3 * (WIDTH + MARGIN)
    assert left > 0  # room for the row labels
    assert grid.image.height == LINE + 2 * (HEIGHT + MARGIN)
    for row in range(2):
        for column in range(3):
            x, y = left + column * (WIDTH + MARGIN), LINE + row * (HEIGHT + MARGIN)
            shade = 100 + 3 * row + column
            area = np.asarray(grid.image.crop((x, y, x + WIDTH, y + HEIGHT)))
            assert (area == (shade, 0, 0)).all()
            assert grid[row, column].image.getpixel((0, 0)) == (shade, 0, 0)


def test_pictures_of_different_sizes_are_whole_and_in_the_middle_of_their_cells():
    sizes = [(64, 64), (64, 128), (96, 32)]
    results = [SimpleNamespace(image=Image.new("RGB", size, (200, 0, 0))) for size in sizes]
    sheet = np.asarray(Grid(("image", ["a", "b", "c"]), None, results).image)[LINE:]
    assert sheet.shape[:2] == (128 + MARGIN, 3 * (96 + MARGIN))
    for column, (width, height) in enumerate(sizes):
        red = (sheet[:128, column * (96 + MARGIN) :][:, :96] == (200, 0, 0)).all(-1)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        assert red.sum() == width * height
        assert (rows[0], columns[0]) == ((128 - height) // 2, (96 - width) // 2)


def test_cells_count_from_the_end_too_and_end_at_the_edge():
    grid = grid_of(("steps", [1, 2]), ("scale", [1, 8]))
    assert grid[-1, -2] is grid.results[2]
    for cell in ((0, 2), (2, 0)):
        with pytest.raises(IndexError):
            grid[cell]


def test_one_row_has_no_label_at_the_left():
    grid = grid_of(("steps", [1, 2]))
    assert grid.image.size == (2 * (WIDTH + MARGIN), LINE + HEIGHT + MARGIN)
    assert grid[0, 1] is grid.results[1]


def test_every_column_has_its_own_label_in_the_middle_above_it():
    grid = grid_of(("steps", [1, 88]), ("scale", [1, 8]))
    for column in range(2):
        where = np.flatnonzero(header(grid, column).any(0))
        assert abs((where[0] + where[-1]) / 2 - WIDTH / 2) < 4
    assert not np.array_equal(header(grid, 0), header(grid, 1))


def test_every_row_has_its_own_label_at_the_left():
    grid = grid_of(("steps", [1]), ("scale", [1.0, 8.5]))
    left = grid.image.width - (WIDTH + MARGIN)
    first, second = (ink(grid.image)[y : y + HEIGHT, :left] for y in (LINE, LINE + HEIGHT + MARGIN))
    assert first.any() and second.any()
    assert not np.array_equal(first, second)


def test_labels_too_long_are_cut_and_touch_no_neighbour():
    text = "a beautiful cyborg with golden hair\nand a great many other words " * 4
    grid = grid_of(("prompt", [text, text]), ("prompt", [text]))
    gaps = [grid.image.width - (WIDTH + MARGIN) - MARGIN, grid.image.width - MARGIN]
    for gap in gaps:
        assert not ink(grid.image)[:LINE, gap : gap + MARGIN].any()
    assert header(grid, 0).any()
    assert grid.image.width <= 3 * (WIDTH + 2 * MARGIN)


def test_the_grid_says_in_words_what_it_shows():
    grid = grid_of(("steps", [1, 2]), ("scale", [8]))
    assert repr(grid) == "Grid of 2 pictures: steps [1, 2] across, scale [8] down"
    assert repr(grid_of(("seed", [7]))) == "Grid of 1 pictures: seed [7] across"
    assert grid._repr_png_().startswith(b"\x89PNG")


# -- through the studio ----------------------------------------------------------------


def test_a_sweep_draws_every_cell_with_its_settings(studio):
    grid = studio.sweep(num_inference_steps=[1, 2], seed=[5, 6], prompt="a cute fox")
    settings = [[grid[row, column].settings for column in range(2)] for row in range(2)]
    assert [[(s["num_inference_steps"], s["seed"]) for s in row] for row in settings] == [
        [(1, 5), (2, 5)],
        [(1, 6), (2, 6)],
    ]
    alone = studio.generate(num_inference_steps=2, seed=6, prompt="a cute fox").image
    assert grid[1, 1].image.tobytes() == alone.tobytes()
