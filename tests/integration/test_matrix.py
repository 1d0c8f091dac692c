"""Every objective with every penalty on every architecture: it builds, steps, stays finite and moves the weights."""

import itertools

import pytest
import torch

from ganscale.config import GENERATORS
from ganscale.losses import LOSSES
from ganscale.training.build import build
from tests.runs import tiny

PENALTIES: dict[str, tuple[str, ...]] = {
    "none": (),
    "gp": ("penalty.gp=10",),
    "r1": ("penalty.r1=1",),
    "r2": ("penalty.r2=1",),
    "r1_r2": ("penalty.r1=1", "penalty.r2=1"),
    "dragan": ("penalty.dragan=10",),
    "drift": ("penalty.drift=0.1",),
    "lecam": ("penalty.lecam=0.1",),
    "centering": ("penalty.centering=0.1",),
}
TINY = {
    "mlp": ("width=6", "depth=1"),
    "dcgan": ("width=2",),
    "resnet": ("width=2",),
    "biggan": ("width=1",),
    "r3gan": ("width=4", "max_width=4", "depth=1", "group_size=4"),
    "transformer": ("width=4", "heads=1", "depth=4", "patch=8"),
    "stylegan2": ("channel_base=32", "channel_max=4", "mapping_layers=2"),
}
BATCH = 4


def overrides(network: str) -> tuple[str, ...]:
    sides = ("model.generator.", "model.discriminator.")
    settings = [f"{side}{setting}" for side in sides for setting in (f"name={network}", *TINY[network])]
    return ("data.resolution=16", "model.latent_dim=4", f"train.batch_size={BATCH}", *settings)


def test_every_architecture_is_here() -> None:
    assert TINY.keys() == GENERATORS.keys()


@pytest.mark.parametrize(
    ("network", "loss", "penalty"),
    list(itertools.product(TINY, LOSSES, PENALTIES)),
    ids=lambda name: name,
)
def test_it_trains(network: str, loss: str, penalty: str) -> None:
    experiment = build(tiny(*overrides(network), f"loss.name={loss}", *PENALTIES[penalty]))
    state = experiment.state
    networks = {"generator": state.generator, "discriminator": state.discriminator}
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in networks.items()}
    losses, penalties = [], {}
    for images in range(0, 3 * BATCH, BATCH):
        statistics = experiment.step(
            experiment.sampler.batches(images), experiment.schedule.controls(images, details=True)
        )
        losses.append(torch.stack((statistics.loss_d, statistics.loss_g)))
        penalties = statistics.penalties
        assert all(value.isfinite().all() for value in (*penalties.values(), *statistics.sums.values()))
    values = torch.stack(losses)
    assert values.isfinite().all()
    assert (values[1:] != values[:-1]).all(), "both losses change in every iteration"
    assert penalties.keys() == {name for name in penalty.split("_") if name != "none"}
    for name, net in networks.items():
        changed = [not p.equal(old) for p, old in zip(net.parameters(), before[name], strict=True)]
        assert sum(changed) >= 0.7 * len(changed), f"weights of the {name} stand still"
        assert all(p.isfinite().all() for p in net.parameters())
