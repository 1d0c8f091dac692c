"""What the networks must fit, and that every architecture is in both tables and in the config."""

from typing import get_args

from ganscale.config import DISCRIMINATORS, GENERATORS
from ganscale.config.schema import Model
from ganscale.models import Geometry


def test_images_and_points() -> None:
    image, point = Geometry((3, 8, 8), 5), Geometry((2,), 5)
    assert image.is_image
    assert not point.is_image
    assert (image.size, point.size) == (192, 2)


def test_the_tables_and_the_config_have_the_same_architectures() -> None:
    for table, side in ((GENERATORS, "generator"), (DISCRIMINATORS, "discriminator")):
        settings = get_args(Model.model_fields[side].annotation)
        assert {option.model_fields["name"].default for option in settings} == set(table)
