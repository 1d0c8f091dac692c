"""What the networks must fit."""

from ganscale.models import Geometry


def test_images_and_points() -> None:
    image, point = Geometry((3, 8, 8), 5), Geometry((2,), 5)
    assert image.is_image
    assert not point.is_image
    assert (image.size, point.size) == (192, 2)
    assert image.resolution == 8
    assert Geometry((3, 8, 9), 5).resolution == (8, 9)
