"""When the loop pauses, what a tick says, and what the feed hands to the step."""

import copy
import math

import pytest
import torch

from ganscale.health import stragglers
from ganscale.health.diversity import diversity, mean_gap, spread_sums
from ganscale.parallel.collectives import Replica
from ganscale.parallel.random import Stream
from ganscale.run.health_monitor import TIMES
from ganscale.training.build import Experiment, build
from ganscale.training.loop import Tick, due, train
from ganscale.training.statistics import LOGIT_EDGES
from tests.fleet import Fleet
from tests.runs import DCGAN, MLP, RING, tiny


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0, 12, set()),
        (12, 30, {"row"}),
        (29, 30, {"row"}),
        (30, 31, set()),
        (59, 61, {"row"}),
        (31, 200, {"row", "save"}),
        (99, 100, {"save"}),
        (991, 1000, {"save", "end"}),
        (1000, 1012, {"end"}),
        (0, 5000, {"row", "save", "end"}),
    ],
)
def test_due_names_the_intervals_that_end(before: int, after: int, expected: set[str]) -> None:
    assert due({"row": 30, "save": 100}, before, after, 1000) == expected


def test_nothing_is_due_twice_or_never() -> None:
    for step in (1, 7, 12, 30, 45):
        names = [due({"row": 30}, images, images + step, 10_000) for images in range(0, 3000, step)]
        assert sum("row" in found for found in names) == min(len(names), math.ceil(3000 / step) * step // 30)


def run(*overrides: str, until: int, intervals: dict[str, int]) -> tuple[Experiment, list[Tick]]:
    experiment = build(tiny(*overrides))
    ticks = train(experiment, intervals=intervals, until=until)
    return experiment, list(ticks)


@pytest.mark.parametrize("d_steps", [1, 3])
def test_ticks_come_at_crossings_and_count_images_of_all_d_steps(d_steps: int) -> None:
    step = 12 * d_steps
    experiment, ticks = run(*MLP, f"optim.d_steps={d_steps}", until=300, intervals={"row": 50, "save": 130})
    end = math.ceil(300 / step) * step
    positions = [n * step for n in range(1, end // step + 1)]
    rows = {p for p in positions if p // 50 > (p - step) // 50}
    saves = {p for p in positions if p // 130 > (p - step) // 130}
    assert [tick.images for tick in ticks] == sorted(rows | saves | {end})
    for tick in ticks:
        assert tick.iteration * step == tick.images
        wanted = {name for name, at in (("row", rows), ("save", saves), ("end", {end})) if tick.images in at}
        assert tick.due == wanted
    assert (experiment.state.images, experiment.state.iteration) == (end, end // step)


def test_a_finished_run_does_nothing() -> None:
    experiment, _ = run(*MLP, until=24, intervals={})
    again = train(experiment, intervals={"row": 1}, until=24)
    assert list(again) == []


METRICS = {
    "loss_d",
    "loss_g",
    "real_logit_mean",
    "real_logit_std",
    "d_accuracy_real",
    "fake_logit_mean",
    "fake_logit_std",
    "d_accuracy_fake",
    "diversity_real",
    "diversity_fake",
    "mean_gap",
    "sliced_frechet",
    "sliced_frechet_real",
    "copies_real",
    "copies_fake",
    "held_out_gap",
    "adversarial_loss_d",
    "grad_norm_d",
    "grad_norm_g",
    "seconds_per_iteration",
    "images_per_second",
    "compute_seconds",
    "data_seconds",
}
CONDITIONAL = (
    *DCGAN,
    *("model.generator.conditioning=norm", "model.generator.norm=batch", "model.discriminator.conditioning=projection"),
    *("model.discriminator.norm=batch", "model.discriminator.minibatch_stddev=true"),
)


def metrics(overrides: tuple[str, ...]) -> list[dict[str, float]]:
    return [tick.metrics for tick in run(*overrides, until=240, intervals={"row": 60})[1]]


def test_metrics_are_plausible() -> None:
    every = metrics((*MLP, "optim.lr_g=1e-5", "optim.lr_d=1e-5"))
    assert len(every) == 4
    for row in every:
        assert row.keys() == METRICS
        assert all(type(value) is float and math.isfinite(value) for value in row.values())
        assert row["loss_d"] == pytest.approx(2 * math.log(2), abs=0.4), "D has learned nothing yet"
        assert row["loss_g"] == pytest.approx(math.log(2), abs=0.4)
        assert row["images_per_second"] == pytest.approx(12 / row["seconds_per_iteration"])
        for side in ("real", "fake"):
            assert 0.0 <= row[f"d_accuracy_{side}"] <= 1.0
            assert row[f"d_accuracy_{side}"] * 12 == pytest.approx(round(row[f"d_accuracy_{side}"] * 12))
        assert row["grad_norm_d"] > 0.0


@pytest.mark.parametrize("overrides", [(), ("train.accumulation=3",), ("optim.d_steps=2",)])
def test_histograms_count_every_logit_of_the_last_update(overrides: tuple[str, ...]) -> None:
    for tick in run(*MLP, *overrides, until=72, intervals={"row": 24})[1]:
        assert tick.histograms.keys() == {"real", "fake"}
        for side, counts in tick.histograms.items():
            assert sum(counts) == 12
            places = [
                (LOGIT_EDGES[i] + LOGIT_EDGES[i + 1]) / 2 for i, count in enumerate(counts) for _ in range(int(count))
            ]
            assert sum(places) / 12 == pytest.approx(tick.metrics[f"{side}_logit_mean"], abs=0.03)


@pytest.mark.parametrize("overrides", [(), ("train.accumulation=3",), ("optim.d_steps=2",), ("model.packing=2",)])
def test_diversity_is_that_of_the_last_d_update(overrides: tuple[str, ...]) -> None:
    experiment, other = (build(tiny(*MLP, *overrides)) for _ in range(2))
    step = experiment.sampler.images_per_iteration
    (tick,) = train(experiment, intervals={}, until=step)
    reals = torch.cat([batch.reals for batch in other.sampler.batches(0)[0][-1]])
    fakes = torch.cat([other.state.generator(batch.z) for batch in other.sampler.batches(0)[0][-1]])
    assert len(reals) == 12
    sums = {"real": spread_sums(reals).tolist(), "fake": spread_sums(fakes).tolist()}
    assert tick.metrics["diversity_real"] == pytest.approx(diversity(sums["real"]), rel=1e-9)
    assert tick.metrics["diversity_fake"] == pytest.approx(diversity(sums["fake"]), rel=1e-9)
    assert tick.metrics["mean_gap"] == pytest.approx(mean_gap(sums["real"], sums["fake"]), rel=1e-9)


def test_losses_are_means_since_the_tick_before() -> None:
    every = [tick.metrics for tick in run(*MLP, until=120, intervals={"row": 12})[1]]
    window = [tick.metrics for tick in run(*MLP, until=120, intervals={"row": 60})[1]]
    for name in ("loss_d", "loss_g"):
        for half in (0, 1):
            mean = sum(row[name] for row in every[half * 5 : half * 5 + 5]) / 5
            assert window[half][name] == pytest.approx(mean, rel=1e-12)
    last = {name: value for name, value in every[-1].items() if name not in (*TIMES, "loss_d", "loss_g")}
    assert {name: window[-1][name] for name in last} == last


def test_the_window_goes_on_over_ticks_that_only_save(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def passes() -> bool:
        clock[0] += 1.0
        return False

    experiment, ticks = build(tiny(*MLP)), list[Tick]()
    for tick in train(experiment, intervals={"log": 48, "averages": 24}, until=48, stop_signal=passes):
        ticks.append(tick)
        clock[0] += 1e3  # what the caller takes does not count
    monkeypatch.undo()
    _, (plain,) = run(*MLP, until=48, intervals={"log": 48})
    assert [(tick.images, bool(tick.metrics)) for tick in ticks] == [(24, False), (48, True)]
    assert ticks[-1].metrics["seconds_per_iteration"] == 1.0
    for name in ("loss_d", "loss_g"):
        assert ticks[-1].metrics[name] == plain.metrics[name]


def test_the_adversarial_loss_is_ds_loss_without_penalties_and_classes() -> None:
    def last(*overrides: str) -> dict[str, float]:
        return run(*MLP, *overrides, until=60, intervals={"row": 12})[1][-1].metrics

    plain = last()
    assert plain["adversarial_loss_d"] == pytest.approx(plain["loss_d"], rel=1e-5)
    penalized = last("penalty.r1=3")
    expected = penalized["loss_d"] - 3.0 * penalized["penalty_r1"]
    assert penalized["adversarial_loss_d"] == pytest.approx(expected, rel=1e-5)
    labeled = last("model.discriminator.conditioning=acgan", "model.generator.conditioning=concat")
    assert 0.0 < labeled["adversarial_loss_d"] < labeled["loss_d"] - 1.0, "log(10) of the classes is not in it"


def test_details_are_those_of_the_last_d_update() -> None:
    """Logit statistics against D and G as they were before the update."""
    experiment = build(tiny(*MLP, "optim.d_steps=2", "train.accumulation=3"))
    other = build(tiny(*MLP, "optim.d_steps=2", "train.accumulation=3"))
    (tick,) = train(experiment, intervals={}, until=24)
    updates, _ = other.sampler.batches(0)
    controls = other.schedule.controls(0)
    other.step._update_discriminator(updates[0], None, controls, controls.penalties[0], details=False)
    with torch.no_grad():
        reals = other.state.discriminator(torch.cat([batch.reals for batch in updates[1]]))
        fakes = other.state.discriminator(other.state.generator(torch.cat([batch.z for batch in updates[1]])))
    expected = {"real_logit_mean": reals.mean(), "real_logit_std": reals.std(correction=0)}
    expected |= {"fake_logit_mean": fakes.mean(), "fake_logit_std": fakes.std(correction=0)}
    expected |= {"d_accuracy_real": (reals > 0).double().mean(), "d_accuracy_fake": (fakes < 0).double().mean()}
    for name, value in expected.items():
        assert tick.metrics[name] == pytest.approx(value.item(), rel=1e-7), name


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize(
    "overrides",
    [(*MLP, "optim.d_steps=2", "train.accumulation=2"), DCGAN, RING, CONDITIONAL],
    ids=["mlp", "dcgan", "ring", "conditional"],
)
def test_metrics_are_equal_on_all_ranks_and_worlds(fleet: Fleet, overrides, world_size: int) -> None:
    expected = metrics(overrides)
    ranks = fleet.run(metrics, world_size, overrides)
    for rows in ranks:
        for row, first, alone in zip(rows, ranks[0], expected, strict=True):
            assert row.keys() == alone.keys() | set(stragglers.METRICS)
            for name in row.keys() - set(TIMES):
                assert row[name] == first[name], f"ranks disagree on {name}"
                assert row[name] == pytest.approx(alone[name], rel=1e-6, abs=1e-12), name


def sampler(*overrides: str, replica: Replica | None = None):
    return build(tiny(*overrides), replica=replica or Replica()).sampler


@pytest.mark.parametrize("reuse", ["true", "false"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_feed_cuts_one_global_stream(accumulation: int, reuse: str) -> None:
    """Micro-batches and D updates in order, then the same stream goes on in the next iteration."""
    settings = (*MLP, "optim.d_steps=2", f"train.accumulation={accumulation}", f"train.reuse_fakes={reuse}")
    whole = sampler(*settings)
    reals, zs = [], []
    for images in (0, 24):
        updates, fresh = whole.batches(images)
        assert len(updates) == 2
        assert all(len(micros) == accumulation for micros in updates)
        assert (fresh is None) == (reuse == "true")
        reals += [batch.reals for micros in updates for batch in micros]
        zs += [batch.z for micros in updates for batch in micros]
        if fresh is not None:
            assert not torch.equal(fresh[0].z, updates[-1][0].z), "the G update draws its own"
            assert len(fresh) == accumulation
    assert torch.equal(torch.cat(reals), whole.source.read(0, 48)[0])
    assert torch.equal(torch.cat(zs), Stream(0, "latent").normal(0, 48, (8,), torch.float64))


@pytest.mark.parametrize("d_steps", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_new_reals_of_the_generator_follow_those_of_the_discriminator(accumulation: int, d_steps: int) -> None:
    """Each example is read once, an iteration reads one more batch than it counts; D's z and numbers stay."""
    settings = (*CONDITIONAL, f"optim.d_steps={d_steps}", f"train.accumulation={accumulation}")
    wholes = sampler(*settings), sampler(*settings, "train.reuse_fakes=false", "train.reuse_reals=false")
    for world_size in (1, 3):
        old, fresh = ([copy.copy(each) for _ in range(world_size)] for each in wholes)
        for rank in range(world_size):
            old[rank].rows = fresh[rank].rows = Replica(rank, world_size).rows(12, accumulation)
        whole, count = old[0].source, 12 * d_steps
        assert fresh[0].images_per_iteration == count
        seen = []
        for images in (0, count, 2 * count):
            batches = [(one.batches(images), other.batches(images)) for one, other in zip(old, fresh, strict=True)]
            for (before, _), (updates, generator) in batches:
                assert generator is not None
                for micros, expected in zip(updates, before, strict=True):
                    for batch, wanted in zip(micros, expected, strict=True):
                        assert batch.position == wanted.position
                        assert torch.equal(batch.z, wanted.z)
                assert [batch.position for batch in generator] == [batch.position for batch in updates[-1]]
            for update in range(d_steps + 1):
                parts = [[*new_batches.discriminator, new_batches.generator][update] for _, new_batches in batches]
                seen += [parts[rank][micro] for micro in range(accumulation) for rank in range(world_size)]
        reals, labels = whole.read(0, 3 * (count + 12))
        assert torch.equal(torch.cat([batch.reals for batch in seen]), reals)
        assert labels is not None
        assert torch.equal(torch.cat([batch.labels for batch in seen]), labels)


def test_p_follows_its_schedule() -> None:
    """At the images before each iteration."""
    settings = ("augment.transforms=[flip]", "augment.p={start: 0, end: 0.5, over: 48, curve: cosine}")
    experiment = build(tiny(*MLP, *settings))
    assert experiment.state.augment_p == 0.0
    found = [experiment.state.augment_p for _ in train(experiment, intervals={"each": 12}, until=72)]
    assert found == pytest.approx([0.25 * (1.0 - math.cos(math.pi * min(1.0, k / 4))) for k in range(6)])


def test_uniform_latents_fill_minus_one_to_one() -> None:
    uniform = sampler(*MLP, "model.latent=uniform")
    z = torch.cat([uniform.batches(images)[0][0][0].z for images in range(0, 1200, 12)])
    assert -1.0 <= z.min() < -0.98
    assert 0.98 < z.max() < 1.0
    assert abs(z.mean().item()) < 0.05


def test_labels_are_shown_only_to_conditional_networks() -> None:
    plain = sampler(*MLP)
    assert plain.batches(0)[0][0][0].labels is None
    plain.conditional = True
    torch.testing.assert_close(plain.batches(0)[0][0][0].labels, plain.source.read(0, 12)[1])
