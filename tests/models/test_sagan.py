"""SAGAN as settings of `resnet`: the numbers of parameters, and the paper's networks written out anew."""

import torch

from tests.models.nets import pair
from tests.models.residual_papers import check, count

SAGAN = (
    *(
        f"model.generator.{each}"
        for each in ("name=resnet", "norm=batch", "conditioning=norm", "conditional_output=false")
    ),
    *("model.discriminator.name=resnet", "model.discriminator.conditioning=projection"),
    *(
        f"model.{s}.{e}"
        for s in ("generator", "discriminator")
        for e in ("spectral_norm=true", "attention_form=pooled")
    ),
)


def test_the_pair_is_the_papers_to_second_order() -> None:
    settings = ("width=2", "max_width=8", "attention=8", *SAGAN)
    networks = pair("resnet", *settings, resolution=32)
    check(networks, torch.tensor([0, 3, 3, 4]), resolution=32, attention=8, halvings=3)


def test_numbers_of_parameters_are_the_published() -> None:
    """github.com/ajbrock/BigGAN-PyTorch, launch_SAGAN_bs128x2_ema.sh, attention at 32 pixels as in the paper."""
    each = ("width=64", "max_width=1024", "attention=32")
    ways = [f"model.{side}.{setting}" for side in ("generator", "discriminator") for setting in each]
    names = [way for way in SAGAN if ".name=" in way]
    assert count("resnet", (*names, *ways, *SAGAN), 128, 128, 1000) == (42_078_852, 39_463_618)
