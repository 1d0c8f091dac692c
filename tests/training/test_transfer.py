"""Weights of one network for another: what fits is taken exactly, all else stays, and the table says which."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from ganscale.config import DISCRIMINATORS, GENERATORS
from ganscale.config.architectures import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    R3GANDiscriminator,
    ResNetDiscriminator,
    ResNetGenerator,
    StyleGAN2Generator,
)
from ganscale.config.datasets import Resolution, height_width
from ganscale.config.section import Section
from ganscale.models import Geometry
from ganscale.training.transfer import apply, match, table, take_moments


def make(
    settings: Section, resolution: Resolution = 16, classes: int = 0, channels: int = 1, seed: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    tables = GENERATORS if type(settings).__name__.endswith("Generator") else DISCRIMINATORS
    name: str = settings.name  # pyright: ignore[reportAttributeAccessIssue]
    network: nn.Module = tables[name].make(settings, Geometry((channels, *height_width(resolution)), 6, classes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


def input_shape(network: nn.Module, resolution: Resolution, channels: int = 1) -> tuple[int, ...]:
    return (6,) if "Generator" in type(network).__name__ else (channels, *height_width(resolution))


def states(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


NORMED = DCGANGenerator(width=4, max_width=8, norm="batch")


def test_an_equal_network_becomes_the_same() -> None:
    one, other = make(NORMED, seed=1), make(NORMED, seed=2)
    transfer = match(one, (6,), other, (6,), {})
    assert transfer.share == 1.0
    assert table(transfer, whole=False) == []
    assert len(table(transfer, whole=True)) == 1 + len(one.state_dict())
    apply(transfer, one, other.state_dict())
    for name, tensor in other.state_dict().items():
        assert torch.equal(one.state_dict()[name], tensor)


def test_twice_the_resolution_takes_the_smaller_maps() -> None:
    small, large = make(NORMED, 16, seed=1), make(DCGANGenerator(width=2, max_width=8, norm="batch"), 32, seed=2)
    before = states(large)
    transfer = match(large, (6,), small, (6,), {})
    apply(transfer, large, small.state_dict())
    taken = {"project.weight": "project.weight", "layers.2.weight": "layers.2.weight"}
    taken |= {f"layers.{index}.{name}": f"layers.{index}.{name}" for index in (0, 3) for name in ("weight", "bias")}
    for here, there in taken.items():
        assert torch.equal(large.state_dict()[here], small.state_dict()[there]), here
    left = {row.name for row in transfer.rows if row.reason}
    assert left == {name for name in before if name.startswith(("layers.5.", "layers.6.", "layers.8."))}
    assert all(torch.equal(large.state_dict()[name], before[name]) for name in left)


def test_every_block_of_stylegan2_is_taken_at_twice_the_resolution() -> None:
    settings = StyleGAN2Generator(channel_base=64, channel_max=4, w_dim=8, mapping_layers=2)
    small, large = make(settings, 16, seed=1), make(settings, 32, seed=2)
    transfer = match(large, (6,), small, (6,), {})
    apply(transfer, large, small.state_dict())
    last = max(
        int(name.split(".")[1]) for name in large.state_dict() if name.startswith("layers.") and name[7].isdigit()
    )
    assert {row.name for row in transfer.rows if row.reason} == {
        name for name in large.state_dict() if name.startswith(f"layers.{last}.")
    }
    for name, tensor in small.state_dict().items():
        assert torch.equal(large.state_dict()[name], tensor), name


def test_in_the_discriminator_layers_move_down_the_chain() -> None:
    small = make(R3GANDiscriminator(width=4, max_width=8, group_size=4), 16, seed=1)
    large = make(R3GANDiscriminator(width=2, max_width=8, group_size=4), 32, seed=2)
    transfer = match(large, (1, 32, 32), small, (1, 16, 16), {})
    apply(transfer, large, small.state_dict())
    assert transfer.sources["layers.5.layers.0.weight"] == "layers.1.layers.0.weight"  # the first block at 16 pixels
    for here, there in transfer.sources.items():
        assert torch.equal(large.state_dict()[here], small.state_dict()[there])
    assert transfer.share > 0.8
    assert {row.name for row in transfer.rows if row.reason} >= {"layers.0.weight", "layers.1.layers.0.weight"}


def test_other_channels_leave_the_layers_at_the_image() -> None:
    gray, colored = make(DCGANDiscriminator(width=4), 16), make(DCGANDiscriminator(width=4), 16, channels=3)
    transfer = match(colored, (3, 16, 16), gray, (1, 16, 16), {})
    assert [row.name for row in transfer.rows if row.reason] == ["layers.0.weight"]
    assert "another shape" in "".join(table(transfer, whole=False))


@pytest.mark.parametrize("sides", [(32, 16), (16, 32)])
@pytest.mark.parametrize("network", [NORMED, DCGANDiscriminator(width=4, max_width=8)])
def test_whichever_side_is_shorter_maps_are_matched_by_the_longer(network: Section, sides: tuple[int, int]) -> None:
    square, here = make(network, 32), make(network, sides)
    transfer = match(here, input_shape(here, sides), square, input_shape(square, 32), {})
    convolutions = {name for name, tensor in here.state_dict().items() if tensor.dim() == 4}
    assert convolutions <= {row.name for row in transfer.rows if row.taken} == transfer.sources.keys()
    layers = [name.partition("weight")[0] for name in convolutions]
    shift = 0 if isinstance(network, DCGANDiscriminator) else 3  # the square generator has a smaller map before
    assert [int(transfer.sources[f"{each}weight"].split(".")[1]) for each in layers] == [
        int(each.split(".")[1]) + shift for each in layers
    ]


FLAT = {
    "dcgan G": (DCGANGenerator(width=4), {"project.weight"}),
    "resnet G": (ResNetGenerator(width=4), {"project.weight", "project.bias"}),
    "dcgan D": (DCGANDiscriminator(width=4), {"head.logit.weight"}),
    "resnet D": (ResNetDiscriminator(width=4, pooling="flatten"), {"head.logit.weight"}),
    "resnet D, sum": (ResNetDiscriminator(width=4), set()),
    "projection": (
        DCGANDiscriminator(width=4, conditioning="projection"),
        {"head.logit.weight", "head.embedding.weight"},
    ),
    "mlp G": (MLPGenerator(width=8, depth=2), {"layers.4.weight", "layers.4.bias"}),
    "mlp D": (MLPDiscriminator(width=8, depth=2), {"layers.0.weight"}),
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_maps_of_another_height_and_width_are_not_taken(name: str) -> None:
    settings, expected = FLAT[name]
    here, there = make(settings, (16, 32), 2), make(settings, (32, 16), 2)
    known = {0: 0, 1: 1}
    transfer = match(here, input_shape(here, (16, 32)), there, input_shape(there, (32, 16)), known)
    assert {row.name for row in transfer.rows if row.reason} == expected
    assert not expected & transfer.sources.keys()
    assert all("maps are" in row.reason for row in transfer.rows if row.reason)
    assert match(here, input_shape(here, (16, 32)), here, input_shape(here, (16, 32)), known).share == 1.0


CONDITIONAL = {
    "norm": DCGANGenerator(width=4, norm="batch", conditioning="norm"),
    "concat": DCGANGenerator(width=4, norm="batch", conditioning="concat", class_dim=3),
    "projection": DCGANDiscriminator(width=4, conditioning="projection"),
    "acgan": DCGANDiscriminator(width=4, conditioning="acgan"),
}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_rows_of_the_same_classes_are_taken(name: str) -> None:
    here, there = make(CONDITIONAL[name], classes=5, seed=1), make(CONDITIONAL[name], classes=3, seed=2)
    before, shape = states(here), input_shape(here, 16)
    transfer = match(here, shape, there, shape, {0: 2, 3: 0})
    apply(transfer, here, there.state_dict())
    assert transfer.classes
    for entry in transfer.classes:
        rows, others = here.state_dict()[entry], there.state_dict()[entry]
        assert torch.equal(rows[[0, 3]], others[[2, 0]])
        assert torch.equal(rows[[1, 2, 4]], before[entry][[1, 2, 4]])
    assert transfer.share == 1.0
    assert {row.reason for row in transfer.rows if row.name in transfer.classes} == {"2 of 5 classes are there"}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_without_known_classes_their_rows_stay(name: str) -> None:
    here, there = make(CONDITIONAL[name], classes=3, seed=1), make(CONDITIONAL[name], classes=3, seed=2)
    before, shape = states(here), input_shape(here, 16)
    transfer = match(here, shape, there, shape, {}, "no names")
    apply(transfer, here, there.state_dict())
    left = [row for row in transfer.rows if row.reason]
    assert {row.reason for row in left} == {"no names"}
    assert all(torch.equal(here.state_dict()[row.name], before[row.name]) for row in left)
    assert not {row.name for row in left} & transfer.sources.keys()


def test_spectral_norms_see_the_new_weights() -> None:
    """Of weights taken whole, u and v are taken; of others, they are found anew."""
    settings = MLPDiscriminator(width=5, spectral_norm=True, conditioning="projection")
    here, there = make(settings, classes=4, seed=1), make(settings, classes=3, seed=2)
    apply(match(here, (1, 16, 16), there, (1, 16, 16), {0: 1}), here, there.state_dict())
    names = "layers.0.parametrizations.weight"
    for entry in (f"{names}.original", f"{names}.0.u", f"{names}.0.v"):
        assert torch.equal(here.state_dict()[entry], there.state_dict()[entry])
    weight = here.state_dict()["head.embedding.parametrizations.weight.original"]
    sigma = torch.linalg.matrix_norm(weight, 2)
    embedding = here.get_submodule("head.embedding").get_parameter("parametrizations.weight.original")
    seen = here.get_submodule("head.embedding").weight
    torch.testing.assert_close(seen, embedding / sigma, rtol=1e-3, atol=1e-4)


def test_adams_moments_follow_the_layers() -> None:
    small, large = make(DCGANDiscriminator(width=4, max_width=8)), make(DCGANDiscriminator(width=2, max_width=8), 32)
    optimizer = torch.optim.Adam(small.parameters(), lr=1.0)
    for number, parameter in enumerate(small.parameters()):
        parameter.grad = torch.full_like(parameter, float(number + 1))
    optimizer.step()
    own = torch.optim.Adam(large.parameters(), lr=0.5)
    transfer = match(large, (1, 32, 32), small, (1, 16, 16), {})
    number = take_moments(transfer, large, own, small, optimizer.state_dict())
    names, others = dict(large.named_parameters()), dict(small.named_parameters())
    assert number == len(own.state) == len(transfer.sources.keys() & names.keys())
    for here, there in transfer.sources.items():
        if here in names:
            for moment in ("exp_avg", "exp_avg_sq", "step"):
                assert torch.equal(own.state[names[here]][moment], optimizer.state[others[there]][moment])
    assert own.param_groups[0]["lr"] == 0.5
    for parameter in large.parameters():
        parameter.grad = torch.zeros_like(parameter)
    own.step()  # those without moments begin anew


def test_other_layers_of_the_same_name_are_not_taken() -> None:
    """A network whose weights are normalized by torch's own spectral norm has no entry of the same name."""
    plain, normed = nn.Sequential(nn.Linear(6, 6)), nn.Sequential(torch_spectral_norm(nn.Linear(6, 6)))
    transfer = match(plain, (6,), normed, (6,), {})
    assert [(row.name, row.reason) for row in transfer.rows if row.reason] == [("0.weight", "no such layer there")]
