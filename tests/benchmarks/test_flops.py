"""Counted operations and bytes of a step, compared with the minimum, for every loss and penalty."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.__main__ import main
from benchmarks.speed.counting import FlopCounter, count
from benchmarks.speed.ideal import discriminator_layers, least_flops
from ganscale.config import Config, load
from ganscale.losses import LOSSES
from ganscale.training.build import build
from tests.runs import DCGAN, R3GAN, RESNET

WIDE = ("data.resolution=16", "model.latent_dim=64", "model.generator.width=128", "model.discriminator.width=128")
DCGAN_NORM = (*DCGAN, "model.discriminator.norm=batch")
R1, R2, GP = "penalty.r1=1", "penalty.r2=1", "penalty.gp=10"


def small(*overrides: str) -> Config:
    return load(None, ["train.batch_size=6", "train.device=cpu", *overrides])


@pytest.mark.parametrize(
    ("network", "loss"),
    [*((WIDE, loss) for loss in LOSSES), (DCGAN_NORM, "hinge"), (DCGAN_NORM, "relativistic_pairing")],
)
def test_an_iteration_needs_the_minimum(network, loss: str) -> None:
    work = count(small(*network, f"loss.name={loss}"))
    assert work.flops == work.least_flops
    assert work.reduced_bytes == work.least_bytes
    assert work.reductions == 2


DENSE = [(R2,), (R1, "penalty.r1_every=2"), ("penalty.drift=1",), (GP, "model.discriminator.activation=relu")]
DENSE += [("optim.d_steps=2",), ("train.reuse_fakes=false",), ("train.accumulation=2", R1), ("model.packing=2", R2)]
CONVOLUTIONAL = [(R1, R2), (GP,), (GP, "model.discriminator.activation=tanh"), (GP, R1, "optim.d_steps=2")]
CONVOLUTIONAL += [("train.accumulation=2", R1), ("model.discriminator.minibatch_stddev=true",), ("penalty.dragan=1",)]


@pytest.mark.parametrize(
    ("network", "settings"), [*((WIDE, each) for each in DENSE), *((DCGAN, each) for each in CONVOLUTIONAL)]
)
def test_every_variant_needs_the_minimum(network, settings) -> None:
    work = count(small(*network, *settings), iterations=2)
    assert work.flops == work.least_flops
    assert work.reduced_bytes == work.least_bytes


@pytest.mark.parametrize("network", [R3GAN, RESNET], ids=["r3gan", "resnet"])
@pytest.mark.parametrize("settings", [(), (R1, R2)], ids=["plain", "r1-r2"])
def test_residual_networks_are_within_one_percent(network, settings) -> None:
    work = count(small(*network, *settings))
    assert work.least_flops is not None
    assert work.least_flops <= work.flops <= 1.01 * work.least_flops


def test_the_minimum_of_a_textbook_network() -> None:
    """G 8-12-24-64 and D 64-24-12-1, plain: forward, weights and inputs of each layer, row by row."""
    experiment = build(small("data.resolution=8", "model.latent_dim=8", *(f"model.{s}.width=12" for s in SIDES)))
    g, d = [8 * 12, 12 * 24, 24 * 64], [64 * 24, 24 * 12, 12 * 1]
    update_d = 2 * (sum(d) + sum(d) + sum(d[1:]))
    update_g = sum(g) + sum(d) + sum(d) + sum(g) + sum(g[1:])
    assert least_flops(experiment) == 6 * 2 * (update_d + update_g)


SIDES = ("generator", "discriminator")


def test_the_minimum_of_r1_and_gp() -> None:
    sizes = ("data.resolution=8", "model.latent_dim=8", *(f"model.{side}.width=12" for side in SIDES))
    d = [64 * 24, 24 * 12, 12 * 1]
    plain = least_flops(build(small(*sizes)))
    slope = sum(d) + sum(d) + sum(d[:-1])  # dD/dx, then its weights and tangents
    assert plain is not None
    assert least_flops(build(small(*sizes, R1))) == plain + 6 * 2 * slope
    assert least_flops(build(small(*sizes, GP))) == plain + 6 * 2 * (slope + sum(d))
    curved = sum(d[:2]) + d[1]  # tanh lies behind the first two layers
    smooth = least_flops(build(small(*sizes, GP, "model.discriminator.activation=tanh")))
    assert smooth == plain + 6 * 2 * (slope + sum(d) + curved)


def test_curved_layers_precede_the_last_nonlinear_one() -> None:
    config = small("data.resolution=8", "model.discriminator.minibatch_stddev=true", "model.discriminator.depth=3")
    network = build(config).state.discriminator
    layers = discriminator_layers(network, torch.randn(4, 1, 8, 8, dtype=torch.float64), None)
    assert layers is not None
    assert [layer.curved for layer in layers] == [True, True, False, False]
    assert [layer.inner for layer in layers] == [False, True, True, True]


@pytest.mark.parametrize("setting", ["model.discriminator.attention=8", "loss.feature_matching=1"])
def test_an_unknown_minimum_is_reported(setting: str, capsys) -> None:
    assert count(small(*DCGAN, setting)).least_flops is None
    assert main(["flops", "--presets", "mlp", *WIDE, "train.batch_size=6", "loss.feature_matching=1"]) == 0
    assert "not known" in capsys.readouterr().out


def test_counts_agree_with_torch_where_torch_can() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(3, 4, 3), nn.Flatten())
    x = torch.randn(2, 2, 9, 9)
    with FlopCounterMode(display=False) as theirs:
        network(x).sum().backward()
    network.zero_grad()
    with FlopCounter() as ours:
        network(x).sum().backward()
    assert ours.total == theirs.get_total_flops() > 0


def test_a_grouped_convolution_counts_each_group_once() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=4)
    with FlopCounter() as counter:
        layer(torch.randn(1, 8, 5, 5, requires_grad=True)).sum().backward()
    assert counter.total == 3 * 2 * 25 * 8 * 2 * 9


def test_other_collectives_are_counted() -> None:
    work = count(small(*DCGAN, "model.generator.norm=batch"))
    assert work.other_collectives > 0
    assert work.other_bytes > 0
    assert work.reduced_bytes == work.least_bytes


def test_command(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    assert main(["flops", "--presets", "mlp", "--json", str(file), *WIDE, "train.batch_size=6"]) == 0
    assert "| mlp | " in capsys.readouterr().out
    figures = json.loads(file.read_text())["flops"]["mlp"]
    assert figures["flops_ratio"] == figures["bytes_ratio"] == 1.0
