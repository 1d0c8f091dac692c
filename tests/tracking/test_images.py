"""Pictures: where each image and point lands, in which color."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganscale.tracking.images import image_grid, scatter, write_png


def tiles(count: int, channels: int = 1, size: int = 4) -> np.ndarray:
    """Images of one brightness each, from -1 to 1."""
    return np.linspace(-1, 1, count)[:, None, None, None] * np.ones((1, channels, size, size))


@pytest.mark.parametrize(
    ("count", "columns", "rows_and_columns"),
    [(1, None, (1, 1)), (2, None, (1, 2)), (5, None, (2, 3)), (9, None, (3, 3)), (6, 2, (3, 2)), (3, 5, (1, 5))],
)
def test_images_stand_row_by_row_on_white(count: int, columns: int | None, rows_and_columns: tuple[int, int]) -> None:
    picture = image_grid(tiles(count), columns=columns, padding=3, minimum=1)
    rows, across = rows_and_columns
    assert picture.shape == (rows * 7 + 3, across * 7 + 3, 3)
    assert picture.dtype == np.uint8
    expected = np.full_like(picture, 255)
    for index, brightness in enumerate(np.linspace(0, 255, count).round()):
        top, left = 3 + index // across * 7, 3 + index % across * 7
        expected[top : top + 4, left : left + 4] = brightness
    np.testing.assert_array_equal(picture, expected)


def test_rows_columns_and_colors_keep_their_places() -> None:
    image = np.full((1, 3, 2, 3), -1.0)
    image[0, 0, 0, 2] = 1.0  # red, top right
    image[0, 2, 1, 0] = 0.0  # half blue, bottom left
    picture = image_grid(image, padding=0, minimum=1)
    np.testing.assert_array_equal(picture[0], [[0, 0, 0], [0, 0, 0], [255, 0, 0]])
    np.testing.assert_array_equal(picture[1], [[0, 0, 128], [0, 0, 0], [0, 0, 0]])


def test_small_images_are_enlarged_by_a_whole_factor() -> None:
    image = np.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    plain = image_grid(image, padding=0, minimum=1)
    large = image_grid(image, padding=0, minimum=9)
    assert large.shape == (12, 12, 3)
    np.testing.assert_array_equal(large[::3, ::3], plain)
    np.testing.assert_array_equal(large[2::3, 2::3], plain)
    assert image_grid(np.zeros((1, 1, 64, 64)), padding=0).shape == (64, 64, 3)


def test_values_outside_are_clipped_and_nan_is_black() -> None:
    values = np.array([-7.0, -1.0, 0.0, 1.0, 7.0, np.nan, np.inf, -np.inf]).reshape(1, 1, 2, 4)
    picture = image_grid(values, padding=0, minimum=1)
    np.testing.assert_array_equal(picture[..., 0], [[0, 0, 128, 255], [255, 0, 255, 0]])


BLUE, GREY, WHITE = [31, 90, 180], [200, 200, 200], [255, 255, 255]
CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def test_points_land_where_they_are_with_y_upwards() -> None:
    picture = scatter(np.array([[1.0, -1.0], [0.0, 0.0]]), CORNERS, size=401, margin=0.5)
    at = {(-1, -1): (300, 100), (1, -1): (300, 300), (1, 1): (100, 300), (-1, 1): (100, 100), (0, 0): (200, 200)}
    for point, (row, column) in at.items():
        expected = BLUE if point in ((1, -1), (0, 0)) else GREY
        assert picture[row, column].tolist() == expected, point
        assert picture[row - 1, column].tolist() == expected, "each point is a plus of five pixels"
        assert picture[row - 1, column - 1].tolist() == WHITE
    assert (picture != 255).any(2).sum() == 5 * len(at)


def test_generated_points_do_not_move_the_axes_and_strays_are_left_out() -> None:
    strays = np.array([[99.0, 0.0], [0.0, -99.0], [np.nan, 0.0], [np.inf, 0.0], [1e300, -1e300], [1.0, 1.0]])
    with np.errstate(all="raise"):
        picture = scatter(strays, CORNERS, size=401, margin=0.5)
    expected = scatter(CORNERS[2:3], CORNERS, size=401, margin=0.5)
    np.testing.assert_array_equal(picture, expected)


def test_points_at_the_rim_do_not_leave_the_picture() -> None:
    rim = np.stack([np.linspace(-2, 2, 400), np.full(400, 2.0)], 1)
    picture = scatter(np.concatenate([rim, -rim, rim[:, ::-1], -rim[:, ::-1]]), CORNERS, size=101, margin=0.5)
    assert picture.shape == (101, 101, 3)


def test_an_extent_of_different_sides_is_centered_and_not_stretched() -> None:
    wide = np.array([[-2.0, 0.0], [2.0, 0.0]])
    picture = scatter(wide, wide, size=201, margin=0.25)
    assert np.argwhere((picture == BLUE).all(2))[0].tolist() == [99, 33]
    assert picture[100, 167].tolist() == BLUE


def test_a_png_appears_whole_and_reads_back(tmp_path: Path) -> None:
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    path = tmp_path / "samples" / "00000012.png"
    write_png(path, picture)
    write_png(path, picture)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    assert list(path.parent.iterdir()) == [path]
