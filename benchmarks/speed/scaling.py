"""`python -m benchmarks.speed scaling`: weak and strong scaling on this machine, and a prediction for others."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.speed.command import changed, configs_of, device_of, markdown, write_json
from benchmarks.speed.counting import count
from benchmarks.speed.launching import on_ray, on_torchrun
from benchmarks.speed.measure import Spread, machine
from benchmarks.speed.plot import scaling_plot
from benchmarks.speed.points import Point
from benchmarks.speed.predict import Link, Prediction, crowding, fit_link, predict
from ganscale.config import Config, ConfigError

MODES = ("weak", "strong")


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    workers = _numbers(options.workers, "--workers", at_least=2)
    report: dict[str, Any] = {"scaling": {}}
    for title, config in configs_of(options).items():
        config = resized(config, config.train.batch_size, 1, options.threads)
        report.setdefault("machine", machine(device_of(config)))
        points, link, alone = scale(config, workers, iterations=options.iterations, rounds=options.rounds)
        print(f"\n{title}: batch {config.train.batch_size} per worker (weak) or in all (strong)\n\n{table(points)}")
        given = _link(options) or link
        more = predict_weak(config, alone, given, _numbers(options.predict, "--predict", at_least=1))
        what = f"{1e6 * given.latency:.0f} us, {given.bandwidth * 8e-9:.2f} Gbit/s"
        print(f"\npredicted, a processor per worker, link {'as measured' if given is link else 'as given'}: {what}\n")
        print(prediction_table(more, config.train.batch_size * config.optim.d_steps), flush=True)
        found = {"points": points, "predictions": more}
        report["scaling"][title] = {key: [asdict(one) for one in value] for key, value in found.items()}
        report["scaling"][title]["link"] = asdict(link)
        if options.plot:
            scaling_plot(points, more, options.plot.with_stem(f"{options.plot.stem}-{title}"))
        if options.ray:
            compared = compare_launchers(config, iterations=options.iterations, rounds=options.rounds)
            print(f"\nRay over torchrun, 2 workers: {compared.median:.3f} [{compared.min:.3f}..{compared.max:.3f}]")
            report["scaling"][title]["ray_over_torchrun"] = asdict(compared)
    write_json(options.json, report)
    return 0


def scale(
    config: Config, workers: Sequence[int], *, iterations: int, rounds: int, launch: Callable[..., Any] = on_torchrun
) -> tuple[list[Point], Link, float]:
    """Measure a run with several numbers of workers.

    Args:
        config: of the run on one worker.
        workers: numbers of workers.
        iterations: per block.
        rounds: number of rounds.
        launch: runs `group.measure_group`.

    Returns:
        A point for each mode and number of workers; the link, fitted to the all-reduces of the first group; one
        worker's seconds per iteration, median over all groups.
    """
    batch, threads = config.train.batch_size, config.cluster.cpus_per_worker
    points, alone, link = [], [], None
    for mode in MODES:
        for number in workers:
            together = resized(config, batch * number if mode == "weak" else batch, number, threads)
            request = {"alone": config.model_dump(mode="json"), "together": together.model_dump(mode="json")}
            answer = launch({**request, "iterations": iterations, "rounds": rounds}, number, threads=threads)
            link = link or fit_link(answer["link"], number)
            alone += answer["alone"]
            points.append(_point(mode, number, together, answer, link))
    assert link is not None, "workers is not empty"
    return points, link, median(alone)


def _point(mode: str, number: int, config: Config, answer: dict[str, Any], link: Link) -> Point:
    together, single = answer["together"], answer["alone"]
    work = number if mode == "strong" else 1  # a worker's share of the single worker's work is 1 / work
    crowd = crowding(number, config.cluster.cpus_per_worker, _cores(config))
    predicted = predict(median(single) / work, count(config, world_size=number).messages, link, number, crowding=crowd)
    quiet = [1.0 - silent / loud for silent, loud in zip(answer["silent"], together, strict=True)]
    return Point(
        mode=mode,
        workers=number,
        images_per_second=config.train.batch_size * config.optim.d_steps / median(together),
        milliseconds=Spread.of([1e3 * value for value in together]),
        efficiency=Spread.of([one / (work * all_) for one, all_ in zip(single, together, strict=True)]),
        communication=max(0.0, median(quiet)),
        predicted=1e3 * predicted.seconds,
        at_best=1e3 * predicted.at_best,
    )


def _cores(config: Config) -> int:
    """Cores that the workers share; GPUs are not shared."""
    if device_of(config).type == "cuda":
        return 1 << 30
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def predict_weak(config: Config, alone: float, link: Link, workers: Sequence[int]) -> list[Prediction]:
    """Predict weak scaling.

    Args:
        config: of the run on one worker.
        alone: seconds per iteration of one worker.
        link: between workers.
        workers: numbers of workers.
    """
    messages = count(config, world_size=2).messages
    return [predict(alone, messages, link, number) for number in workers]


def compare_launchers(config: Config, *, iterations: int, rounds: int) -> Spread:
    """Speed of two workers under Ray Train over that under torchrun, in the order torchrun, Ray, Ray, torchrun.

    Each speed is relative to a single worker in the same group, so that the drift of the machine cancels.

    Args:
        config: of the run on one worker.
        iterations: per block.
        rounds: per group.
    """
    threads = config.cluster.cpus_per_worker
    together = resized(config, 2 * config.train.batch_size, 2, threads)
    request = {"alone": config.model_dump(mode="json"), "together": together.model_dump(mode="json")}
    request |= {"iterations": iterations, "rounds": rounds}
    speeds: dict[str, list[float]] = {"torchrun": [], "ray": []}
    for name in ("torchrun", "ray", "ray", "torchrun"):
        answer = on_ray(request) if name == "ray" else on_torchrun(request, 2, threads=threads)
        speeds[name] += [one / both for one, both in zip(answer["alone"], answer["together"], strict=True)]
    return Spread.of([a / b for a, b in zip(sorted(speeds["ray"]), sorted(speeds["torchrun"]), strict=True)])


def resized(config: Config, batch: int, workers: int, threads: int) -> Config:
    """A copy of the config with another batch and cluster.

    Args:
        config: of the run.
        batch: `train.batch_size`.
        workers: `cluster.num_workers`.
        threads: `cluster.cpus_per_worker`.
    """
    cluster = {"num_workers": workers, "cpus_per_worker": threads}
    return changed(config, train={"batch_size": batch}, cluster=cluster)


def table(points: Sequence[Point]) -> str:
    """Format the points as a Markdown table.

    Args:
        points: measured.
    """
    head = ("scaling", "workers", "images/s", "ms/iteration p50 (p10, p90)", "efficiency, median [min..max]")
    rows: list[Sequence[str]] = [(*head, "communication", "predicted ms (at best)", "predicted over measured")]
    for p in points:
        ms, part = p.milliseconds, p.efficiency
        times = f"{ms.median:.2f} ({ms.p10:.2f}, {ms.p90:.2f})"
        efficiency = f"{part.median:.3f} [{part.min:.3f}..{part.max:.3f}]"
        predicted = (f"{p.predicted:.2f} ({p.at_best:.2f})", f"{p.predicted / ms.median:.2f}")
        share = f"{100 * p.communication:.1f} %"
        rows.append((p.mode, str(p.workers), f"{p.images_per_second:,.0f}", times, efficiency, share, *predicted))
    return markdown(rows)


def prediction_table(predictions: Sequence[Prediction], images: int) -> str:
    """Format the predictions as a Markdown table.

    Args:
        predictions: for weak scaling.
        images: per worker and iteration.
    """
    rows = [("workers", "ms/iteration (at best)", "images/s (at best)", "weak-scaling efficiency (at best)")]
    for p in predictions:
        speeds = [p.workers * images / seconds for seconds in (p.seconds, p.at_best)]
        shares = [p.compute / seconds for seconds in (p.seconds, p.at_best)]
        times = f"{1e3 * p.seconds:.2f} ({1e3 * p.at_best:.2f})"
        rows.append((str(p.workers), times, "{:,.0f} ({:,.0f})".format(*speeds), "{:.3f} ({:.3f})".format(*shares)))
    return markdown(rows)


def _numbers(text: str, key: str, *, at_least: int) -> list[int]:
    numbers = [int(word) if word.strip().isdigit() else 0 for word in text.split(",")]
    if min(numbers) < at_least:
        raise ConfigError(
            "not a list of numbers of workers", key=key, value=text, remedy=f"use numbers from {at_least}, such as 2,4"
        )
    return numbers


def _link(options: argparse.Namespace) -> Link | None:
    given = (options.latency, options.bandwidth)
    if given == (None, None):
        return None
    if None in given or options.latency < 0 or options.bandwidth <= 0:
        remedy = "give both: --latency of at least 0 and --bandwidth above 0"
        raise ConfigError("not a valid link", key="--latency, --bandwidth", value=given, remedy=remedy)
    return Link(1e-6 * options.latency, options.bandwidth * 1e9 / 8)
