"""Do `optim.auto` and `penalty.auto` find what a sweep finds? `python -m benchmarks.auto RECORDS`.

For each task a sweep tries 24 fixed settings (six rates, four gammas) on seed 0. Its best three and the automatic
settings then train on seeds 1 to 3, which nothing was chosen on; the best of the three is what auto is compared with.
Each run that the records lack is trained by the package to its end and appended as a line, so that the table grows over
days and machines. `--score` only prints it. The task `fashion` needs Debian's package dataset-fashion-mnist, `emoji`
the pictures of `make data-emoji`.
"""

import argparse
import gzip
import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks.robustness import SETTINGS, read, train
from ganscale.config import METRICS, Config, load

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
GAMMAS = (0.01, 0.1, 1.0, 10.0)
AUTO = "auto"
SWEPT, FRESH, FINALISTS = 0, (1, 2, 3), 3
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package has Fashion-MNIST (Xiao et al. 2017)."""
_SMALL_MLP = ("width=64", "depth=2", "growth=1")


@dataclass(frozen=True)
class Task:
    """A data set with networks and a budget.

    Attributes:
        base: config file.
        images: length of a run.
        metric: that decides.
        settings: `key=value` on top of the base.
    """

    base: str
    images: int
    metric: str
    settings: tuple[str, ...] = ()


def _networks(*settings: str) -> tuple[str, ...]:
    return tuple(f"model.{network}.{each}" for network in ("generator", "discriminator") for each in settings)


_POINTS = (*_networks(*_SMALL_MLP), "train.batch_size=64", "ema.half_life=10_000")
_DIGITS = ("model.latent=normal", "loss.label_smoothing=0", "ema.half_life=10_000", "eval.num_samples=5_000")
TASKS = {
    "ring": Task("configs/gaussians.yaml", 192_000, "high_quality", _POINTS),
    "grid": Task("configs/gaussians.yaml", 640_000, "high_quality", (*_POINTS, "data.name=grid")),
    "mnist-mlp": Task("configs/mnist_mlp.yaml", 128_000, "frechet", _DIGITS),
    "mnist-dcgan": Task(
        "configs/mnist_dcgan.yaml",
        64_000,
        "frechet",
        (*_DIGITS, *_networks("width=8"), "model.discriminator.norm=none"),
    ),
    "fashion": Task(
        "configs/mnist_mlp.yaml",
        128_000,
        "swd",
        (*_DIGITS, "data.name=folder", "eval.extractor=patches", "eval.metrics=[swd]"),
    ),
    "emoji": Task(
        "configs/emoji_32.yaml",
        64_000,
        "swd",
        (*_networks("width=8", "max_width=64"), "penalty.r1_every=1", "penalty.r2_every=1", "ema.half_life=10_000"),
    ),
}
"""What is tried, by name; nothing was chosen on `emoji`."""


class Run(NamedTuple):
    """One run of the table.

    Attributes:
        task: name of the task.
        setting: `auto`, or rate and gamma as `0.001/0.1`.
        seed: `run.seed`.
    """

    task: str
    setting: str
    seed: int

    def config(self, pictures: Path) -> Config:
        """What it trains. Raises: ConfigError: a setting is refused.

        Args:
            pictures: zip file of the task `fashion`.
        """
        task = TASKS[self.task]
        settings = ["loss.name=relativistic_pairing", "optim.betas_g=[0.5,0.999]", "optim.betas_d=[0.5,0.999]"]
        settings += [*SETTINGS, f"train.images={task.images}", f"eval.every={task.images}", *task.settings]
        if self.task == "fashion":
            settings.append(f"data.path={pictures}")
        if self.setting == AUTO:
            found = ["optim.auto=true", "penalty.auto=true", "penalty.r1=0", "penalty.r2=0"]
            found += ["optim.lr_g=2e-4", "optim.lr_d=2e-4"]  # the defaults: auto is refused beside others
        else:
            rate, gamma = self.setting.split("/")
            found = [f"optim.lr_{side}={rate}" for side in "gd"] + [f"penalty.r{side}={gamma}" for side in "12"]
        return load(task.base, [*settings, f"run.seed={self.seed}", *found])


Scores = Mapping[Run, float]


def fixed() -> list[str]:
    """The settings of the sweep."""
    return [f"{rate:g}/{gamma:g}" for rate in RATES for gamma in GAMMAS]


def best(task: str, settings: Sequence[str], scores: Mapping[str, float]) -> list[str]:
    """Settings from the best to the worst; a score that is not finite is the worst.

    Args:
        task: name of the task.
        settings: to sort.
        scores: by setting.
    """
    sign = -1.0 if METRICS[TASKS[task].metric].higher_is_better else 1.0

    def key(setting: str) -> float:
        value = scores.get(setting, math.nan)
        return sign * value if math.isfinite(value) else math.inf

    return sorted(settings, key=key)


def finalists(task: str, scores: Scores) -> list[str]:
    """The sweep's best settings; none before all of it has been tried.

    Args:
        task: name of the task.
        scores: of the runs so far.
    """
    swept = {setting: scores[run] for setting in fixed() if (run := Run(task, setting, SWEPT)) in scores}
    return best(task, fixed(), swept)[:FINALISTS] if len(swept) == len(fixed()) else []


def missing(task: str, scores: Scores) -> Iterator[Run]:
    """Runs that can be trained now, the sweep's first.

    Args:
        task: name of the task.
        scores: of the runs so far.
    """
    runs = [Run(task, setting, SWEPT) for setting in fixed()]
    runs += [Run(task, setting, seed) for setting in (AUTO, *finalists(task, scores)) for seed in FRESH]
    yield from (run for run in runs if run not in scores)


def known(records: Path) -> dict[Run, float]:
    """Scores of the recorded runs.

    Args:
        records: file of lines, which need not exist.
    """
    return {
        Run(row["task"], row["setting"], row["seed"]): math.nan if row["score"] is None else row["score"]
        for row in read(records)
    }


def train_missing(tasks: Sequence[str], records: Path) -> None:
    """Train what the records lack.

    Args:
        tasks: their names.
        records: file to which each run's score is appended; `fashion.zip` is made beside it.
    """
    pictures = records.parent / "fashion.zip"
    if "fashion" in tasks and not pictures.exists():
        write_fashion(FASHION, pictures)
    for task in tasks:
        while run := next(missing(task, known(records)), None):
            started, metric = time.process_time(), TASKS[task].metric
            score = train(run.config(pictures), (metric,)).values[metric]
            seconds = round(time.process_time() - started, 1)
            row = {**run._asdict(), "score": score if math.isfinite(score) else None, "cpu_seconds": seconds}
            with records.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            print(row, flush=True)


def report(scores: Scores) -> str:
    """Per task the sweep's best setting and auto on fresh seeds; a ratio above 1 says that auto is worse.

    Args:
        scores: of the recorded runs.
    """
    lines = [f"{'task':<13}{'metric':<14}{'setting':<16}{'mean':>9}  on fresh seeds"]
    for task in TASKS:
        fresh = {
            setting: [scores[Run(task, setting, seed)] for seed in FRESH if Run(task, setting, seed) in scores]
            for setting in (AUTO, *finalists(task, scores))
        }
        means = {setting: mean(values) for setting, values in fresh.items() if len(values) == len(FRESH)}
        for setting, value in means.items():
            values = ", ".join(f"{each:.4g}" for each in fresh[setting])
            lines.append(f"{task:<13}{TASKS[task].metric:<14}{setting:<16}{value:>9.4g}  {values}")
        rivals = [setting for setting in means if setting != AUTO]
        if AUTO in means and len(rivals) == FINALISTS:
            winner = means[best(task, rivals, means)[0]]
            higher = METRICS[TASKS[task].metric].higher_is_better
            ratio = winner / means[AUTO] if higher else means[AUTO] / winner
            lines.append(f"{task:<13}auto against the best of the sweep: {ratio:.3f} (above 1: worse)")
    return "\n".join(lines)


def write_fashion(source: Path, target: Path) -> None:
    """Fashion-MNIST's training pictures as a zip with a folder per class.

    Args:
        source: folder with `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`.
        target: the zip file.
    """
    images = np.frombuffer(gzip.decompress((source / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((source / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    with zipfile.ZipFile(target, "w") as archive:
        for index, (image, label) in enumerate(zip(images.reshape(-1, 28, 28), labels, strict=True)):
            picture = io.BytesIO()
            Image.fromarray(image).save(picture, "png")
            archive.writestr(f"{label}/{index:05}.png", picture.getvalue())


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auto", description=__doc__)
    parser.add_argument("records", type=Path, help="file of the runs, made if it is not there")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="all of them, if not given")
    parser.add_argument("--score", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    if not options.score:
        torch.set_num_threads(1)
        train_missing(options.tasks, options.records)
    print(report(known(options.records)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
