"""From config to objects: initial weights, precision, rates, and the loss that was asked for."""

import pytest
import torch

from ganscale.data import ImageSource, PointSource, StackedSource
from ganscale.losses import LOSSES
from ganscale.training.build import build, build_source
from tests.runs import DCGAN, MLP, tiny


def weights(*overrides: str) -> dict[str, torch.Tensor]:
    state = build(tiny(*overrides)).state
    networks = {"generator": state.generator, "discriminator": state.discriminator, "ema": state.ema.module}
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("network", [MLP, DCGAN], ids=["mlp", "dcgan"])
def test_initial_weights_are_a_function_of_the_seed(network: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = weights(*network)
    torch.testing.assert_close(weights(*network), first, rtol=0.0, atol=0.0)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"
    other = weights(*network, "run.seed=1")
    assert any(not torch.equal(other[name], first[name]) for name in first if name.startswith("generator"))
    assert any(not torch.equal(other[name], first[name]) for name in first if name.startswith("discriminator"))


def test_the_networks_draw_different_weights() -> None:
    state = build(tiny(*MLP, "model.latent_dim=64")).state
    first, other = (next(net.parameters()).flatten()[:64] for net in (state.generator, state.discriminator))
    assert not torch.allclose(first, other), "both have 64 inputs, hence the same bounds"


def test_precisions_start_from_the_same_weights() -> None:
    single, double = weights(*MLP, "train.precision=float32"), weights(*MLP)
    for name, value in double.items():
        assert value.dtype == torch.float64
        assert single[name].dtype == torch.float32
        assert torch.equal(single[name].double(), value)


def test_the_tf32_flags_are_those_of_the_run() -> None:
    for allowed in (True, False):
        build(tiny(*MLP, f"train.tf32={str(allowed).lower()}"))
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is allowed


def test_a_change_of_one_network_leaves_the_other_alone() -> None:
    first, other = weights(*MLP), weights(*MLP, "model.discriminator.width=5")
    assert all(torch.equal(first[name], other[name]) for name in first if name.startswith("generator"))


def test_each_optimizer_has_its_own_rate_and_network() -> None:
    settings = ("optim.lr_g=0.1", "optim.lr_d=0.2", "optim.betas_g=[0, 0.9]", "optim.betas_d=[0.1, 0.8]")
    state = build(tiny(*MLP, *settings)).state
    for optimizer, network, rate, betas in (
        (state.optimizer_g, state.generator, 0.1, (0.0, 0.9)),
        (state.optimizer_d, state.discriminator, 0.2, (0.1, 0.8)),
    ):
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"]) == (rate, betas)
        assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]


@pytest.mark.parametrize("name", LOSSES)
def test_the_named_loss_is_used(name: str) -> None:
    assert build(tiny(*MLP, f"loss.name={name}")).step.objective_g.loss is LOSSES[name]


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("mnist", ImageSource, (1, 16, 16)),
        ("stacked_mnist", StackedSource, (3, 16, 16)),
        ("ring", PointSource, (2,)),
        ("grid", PointSource, (2,)),
    ],
)
def test_sources(name: str, kind: type, shape: tuple[int, ...]) -> None:
    config = tiny(f"data.name={name}", "data.resolution=16", "data.num_images=50")
    source = build_source(config, torch.device("cpu"))
    assert type(source) is kind
    assert source.shape == shape
    examples, labels = source.read(0, 7)
    assert examples.shape == (7, *shape)
    assert examples.dtype == torch.float64
    assert labels is not None
    assert labels.max() < source.num_classes
