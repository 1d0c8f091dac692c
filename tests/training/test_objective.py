"""D's and G's objectives: penalties as they enter the loss, packing, one pass or two, classes, matched features."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ganscale.losses import LOSSES, Targets
from ganscale.models.layers import BatchNorm
from ganscale.training.augment import Augmentation
from ganscale.training.build import build, build_networks
from ganscale.training.ema import LogitAverages
from ganscale.training.objective import Batch, DiscriminatorObjective, Draws, GeneratorObjective, View, pack
from ganscale.training.schedules import PenaltyWeights
from tests.runs import MLP, tiny

ROWS, SHAPE = 6, (1, 4, 4)
PENALTIES = {
    "gp": PenaltyWeights(gp=10.0),
    "r1": PenaltyWeights(r1=2.0),
    "r2": PenaltyWeights(r2=3.0),
    "r1_r2": PenaltyWeights(r1=2.0, r2=3.0),
    "dragan": PenaltyWeights(dragan=5.0),
    "drift": PenaltyWeights(drift=0.5),
    "lecam": PenaltyWeights(lecam=0.3),
    "centering": PenaltyWeights(centering=0.2),
    "all": PenaltyWeights(gp=1.0, r1=2.0, r2=3.0, dragan=4.0, drift=5.0, lecam=6.0, centering=7.0),
}


class Net(nn.Module):
    """A small curved discriminator that counts its passes."""

    def __init__(self, channels: int = 1, *, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        middle = [BatchNorm(5)] if norm else []
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, 5), *middle, nn.Tanh(), nn.Linear(5, 1))
        self.double()
        self.passes: list[int] = []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        self.passes.append(x.shape[0])
        return 2.0 * self.layers(x).squeeze(1)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DEVIATION = torch.tensor(0.7, dtype=torch.float64)
BATCH = Batch(numbers(0, ROWS, *SHAPE), numbers(1, ROWS, 3), None, 12, DEVIATION)
FAKES = numbers(3, ROWS, *SHAPE)


def objective(
    net: nn.Module,
    *,
    packing: int = 1,
    loss: str = "non_saturating",
    augmentation: Augmentation | None = None,
    estimated: tuple[str, ...] = (),
):
    seen = View(Draws(7, "cpu"), packing=packing, augmentation=augmentation)
    options = {"targets": Targets(), "class_weight": 1.0, "gp_target": 1.0, "estimated": {*estimated}, "sigma": 0.1}
    averages = LogitAverages(0.75)
    averages.update(torch.tensor([2.0, -6.0, 4.0]).double())  # means of 0.5 and -1.5
    return DiscriminatorObjective(net, LOSSES[loss], seen, averages=averages, **options)


def gradient_norms(net: nn.Module, x: Tensor) -> Tensor:
    """|dD/dx| of each row, one backward pass for each (the net must treat rows apart)."""
    x = x.clone().requires_grad_(True)
    rows = [torch.autograd.grad(logit, x, create_graph=True)[0][i].norm() for i, logit in enumerate(net(x))]
    return torch.stack(rows)


def expected_loss(net: nn.Module, weights: PenaltyWeights, packing: int) -> Tensor:
    """The textbook's sum, penalties by their definitions."""
    draws = Draws(7, "cpu")
    reals, fakes = pack(BATCH.reals, packing), pack(FAKES, packing)
    real, fake = net(reals), net(fakes)
    total = -(real.sigmoid().log() + (1.0 - fake.sigmoid()).log()).sum()
    between = draws.uniform("penalty/gp", 12, (ROWS, 1), torch.float64)[::packing].view(-1, 1, 1, 1)
    points = (1.0 - between) * reals + between * fakes
    total = total + weights.gp * (gradient_norms(net, points) - 1.0).square().sum()
    total = total + weights.r1 / 2 * gradient_norms(net, reals).square().sum()
    total = total + weights.r2 / 2 * gradient_norms(net, fakes).square().sum()
    share = draws.uniform("penalty/dragan", 12, (ROWS, 1), torch.float64)[::packing].view(-1, 1, 1, 1)
    noise = pack(draws.uniform("penalty/dragan/noise", 12, (ROWS, *SHAPE), torch.float64), packing)
    around = reals + share * 0.5 * DEVIATION * noise
    total = total + weights.dragan * (gradient_norms(net, around) - 1.0).square().sum()
    total = total + weights.lecam * ((real + 1.5).square() + (fake - 0.5).square()).sum()
    total = total + weights.centering * (real + fake).square().sum()
    return total + weights.drift * real.square().sum()


def gradients(net: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    return found


@pytest.mark.parametrize("packing", [1, 2, 3])
@pytest.mark.parametrize("weights", PENALTIES.values(), ids=PENALTIES)
def test_loss_and_gradient_are_those_of_the_definitions(weights: PenaltyWeights, packing: int) -> None:
    net = Net(packing)
    judged = objective(net, packing=packing)(BATCH, FAKES, weights, 0.25, 0.0, 0.0)
    judged.loss.backward()
    ours = gradients(net)
    expected = 0.25 * expected_loss(net, weights, packing)
    expected.backward()
    torch.testing.assert_close(judged.loss, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours, gradients(net), rtol=1e-7, atol=1e-9)
    assert judged.real_logits.shape == (ROWS // packing,)


@pytest.mark.parametrize("estimated", [("r1",), ("r2",), ("r1", "r2")], ids="-".join)
def test_finite_differences_see_shifted_examples_and_the_same_augmentation(estimated: tuple[str, ...]) -> None:
    """By the definition: shifted before the transforms, and all random numbers but the step's as without it."""
    net = Net(2)
    judge = objective(net, packing=2, augmentation=Augmentation(["contrast", "cutout"]), estimated=estimated)
    weights = PenaltyWeights(**dict.fromkeys(estimated, 2.0))
    output = judge(BATCH, FAKES, weights, 0.25, 0.3, 0.8)
    output.loss.backward()
    ours = gradients(net)
    plain = judge(BATCH, FAKES, PenaltyWeights(), 0.25, 0.3, 0.8)
    total = plain.loss
    for name, purpose, x in (("r1", "real", BATCH.reals), ("r2", "fake", FAKES)):
        if name in estimated:
            step = Draws(7, "cpu").normal(f"penalty/{name}", 12, x.shape, torch.float64)
            logits, shifted = (net(judge.view(y, purpose, 12, noise=0.3, p=0.8)) for y in (x, x + 0.1 * step))
            value = ((shifted - logits) / 0.1).square().sum() / 2
            torch.testing.assert_close(output.penalties[name], value.detach())
            total = total + 0.25 * 2.0 * value
    total.backward()
    torch.testing.assert_close(output.loss, total.detach())
    torch.testing.assert_close(ours, gradients(net), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimated", [(), ("r1",), ("r1", "r2")], ids=["exact", "r1", "r1_r2"])
@pytest.mark.parametrize("weights", PENALTIES.values(), ids=PENALTIES)
def test_one_pass_over_reals_and_fakes_equals_two(weights: PenaltyWeights, estimated: tuple[str, ...]) -> None:
    net = Net()
    augmentation = Augmentation(["brightness", "translation", "contrast"])
    judge = objective(net, augmentation=augmentation, estimated=estimated)
    found = []
    for fused in (True, False):
        judge.fused = fused
        judged = judge(BATCH, FAKES, weights, 1.0, 0.1, 0.7)
        judged.loss.backward()
        found.append((judged.loss.detach(), judged.penalties, gradients(net)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-13)


def test_passes_of_the_discriminator() -> None:
    """One for both; two where only one side's gradient is wanted or rows meet; one more for each other point."""
    passes = {}
    for name, weights in {"none": PenaltyWeights(), **PENALTIES}.items():
        net = Net()
        objective(net)(BATCH, FAKES, weights, 1.0, 0.0, 0.0)
        passes[name] = net.passes
    both, apart = [2 * ROWS], [ROWS, ROWS]
    assert passes == {
        "none": both,
        "gp": [*both, ROWS],
        "r1": apart,
        "r2": apart,
        "r1_r2": both,
        "dragan": [*both, ROWS],
        "drift": both,
        "lecam": both,
        "centering": both,
        "all": [*both, ROWS, ROWS],
    }
    for estimated, expected in (((), apart), (("r1", "r2"), 2 * apart)):
        net = Net(norm=True)
        objective(net, estimated=estimated)(BATCH, FAKES, PENALTIES["r1_r2"], 1.0, 0.0, 0.0)
        assert net.passes == expected
    net = Net()
    objective(net, estimated=("r1", "r2"))(BATCH, FAKES, PENALTIES["r1_r2"], 1.0, 0.0, 0.0)
    assert net.passes == [4 * ROWS]
    norm = Net(norm=True)
    objective(norm, estimated=("r1", "r2"))(BATCH, FAKES, PENALTIES["r1_r2"], 1.0, 0.0, 0.0)
    other = Net(norm=True)
    objective(other)(BATCH, FAKES, PenaltyWeights(), 1.0, 0.0, 0.0)
    torch.testing.assert_close(dict(norm.named_buffers()), dict(other.named_buffers()))


@pytest.mark.parametrize("weights", [PENALTIES["r1_r2"], PENALTIES["gp"]], ids=["r1_r2", "gp"])
def test_gradients_through_batch_norm_are_those_of_finite_differences(weights: PenaltyWeights) -> None:
    net = Net(norm=True)
    judge = objective(net, loss="wasserstein")
    judge(BATCH, FAKES, weights, 1.0, 0.0, 0.0).loss.backward()
    weight = net.layers[1].weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    for index in ((0, 0), (3, 7), (4, 15)):
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                weight[index] += step
            values.append(judge(BATCH, FAKES, weights, 1.0, 0.0, 0.0).loss.item())
        with torch.no_grad():
            weight[index] += 1e-5
        slope = (values[0] - values[1]) / 2e-5
        assert weight.grad[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_penalties_see_the_images_through_the_transforms() -> None:
    """R1 is the gradient for the plain real images: turning them up in contrast turns it up as well."""
    net = Net()
    judge = objective(net, augmentation=Augmentation(["contrast"]))
    reals = BATCH.reals.clone().requires_grad_(True)
    seen = judge.view(reals, "real", 12, noise=0.0, p=1.0)
    norms = torch.autograd.grad(net(seen).sum(), reals)[0].flatten(1).norm(dim=1)
    penalties = judge(BATCH, FAKES, PENALTIES["r1"], 1.0, 0.0, 1.0).penalties
    torch.testing.assert_close(penalties["r1"], norms.square().sum() / 2)


def test_noise_and_transforms_depend_on_the_row_only() -> None:
    view = View(Draws(0, "cpu"), Augmentation(["flip", "cutout", "brightness"]))
    whole = view(BATCH.reals, "real", 12, noise=0.3, p=0.5)
    parts = [view(BATCH.reals[i : i + 2], "real", 12 + i, noise=0.3, p=0.5) for i in (0, 2, 4)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0.0, atol=0.0)
    other = view(BATCH.reals, "fake", 12, noise=0.3, p=0.5)
    assert not torch.isclose(whole, other).any(1).any(1).any(1).all()


def test_packs_hold_consecutive_examples() -> None:
    packed = pack(BATCH.reals, 3)
    assert packed.shape == (2, 3, 4, 4)
    torch.testing.assert_close(packed[1, 2], BATCH.reals[5, 0])
    torch.testing.assert_close(pack(numbers(0, 4, 2), 2), numbers(0, 4, 2).view(2, 4))


CONDITIONAL = (*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=acgan")


def conditional_net() -> nn.Module:
    return build_networks(tiny(*CONDITIONAL), (1, 8, 8), torch.device("cpu"), num_classes=10)[1]


def test_class_losses_of_acgan() -> None:
    net = conditional_net()
    labels = torch.arange(ROWS)
    batch = Batch(numbers(0, ROWS, 1, 8, 8), numbers(1, ROWS, 3), labels, 0)
    fakes = numbers(2, ROWS, 1, 8, 8)
    view = View(Draws(0, "cpu"))
    judge = DiscriminatorObjective(net, LOSSES["wasserstein"], view, targets=Targets(), class_weight=0.7, gp_target=1.0)
    logits, classes = zip(*(net.forward_with_classes(x) for x in (batch.reals, fakes)), strict=True)  # pyright: ignore
    class_loss = [cross_entropy(c, labels, reduction="sum") for c in classes]
    for fused in (True, False):
        judge.fused = fused
        loss = judge(batch, fakes, PenaltyWeights(), 0.5, 0.0, 0.0).loss
        expected = 0.5 * ((logits[1] - logits[0]).sum() + 0.7 * sum(class_loss))
        torch.testing.assert_close(loss, expected)
    generator = GeneratorObjective(
        net, LOSSES["wasserstein"], view, class_weight=0.7, feature_matching=0.0, batch_rows=ROWS
    )
    expected = 0.5 * (-logits[1].sum() + 0.7 * class_loss[1])
    torch.testing.assert_close(generator(batch, fakes, 0.5, 0.0, 0.0), expected)


def test_feature_matching_is_the_distance_of_mean_features() -> None:
    config = tiny(*MLP)
    _, net = build_networks(config, (1, 8, 8), torch.device("cpu"))
    batch, fakes = Batch(numbers(0, ROWS, 1, 8, 8), numbers(1, ROWS, 3)), numbers(2, ROWS, 1, 8, 8)
    fakes.requires_grad_(True)
    loss = LOSSES["hinge"]
    values = []
    for weight in (0.0, 2.0):
        view, batch_rows = View(Draws(0, "cpu")), 3 * ROWS  # one of three micro-batches
        generator = GeneratorObjective(
            net, loss, view, class_weight=1.0, feature_matching=weight, batch_rows=batch_rows
        )
        values.append(generator(batch, fakes, 1.0 / ROWS, 0.0, 0.0))
    features = [net.features(x).mean(0) for x in (batch.reals, fakes)]  # pyright: ignore[reportCallIssue]
    expected = 2.0 * (features[0] - features[1]).square().sum() / 3
    torch.testing.assert_close(values[1] - values[0], expected)
    (ours,) = torch.autograd.grad(values[1] - values[0], fakes)
    (theirs,) = torch.autograd.grad(expected, fakes)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("d_steps", [1, 2, 3])
def test_a_lazy_penalty_is_due_every_so_many_updates_with_its_weight_times_them(d_steps: int) -> None:
    experiment = build(
        tiny(*MLP, f"optim.d_steps={d_steps}", "penalty.r1=2", "penalty.r1_every=3", "penalty.drift=0.1")
    )
    seen: list[tuple[float, float]] = []
    experiment.step.d.parallel.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[2].r1, inputs[2].drift)))
    every = experiment.sampler.images_per_iteration
    for iteration in range(6):
        images = iteration * every
        statistics = experiment.step(experiment.sampler.batches(images), experiment.schedule.controls(images))
        assert ("r1" in statistics.penalties) == any(weight for weight, _ in seen[-d_steps:])
        assert "drift" in statistics.penalties
    assert seen == [(6.0 if update % 3 == 0 else 0.0, 0.1) for update in range(6 * d_steps)]
