"""Images until a warm start reaches a cold start's Fréchet distance: `python -m benchmarks.warm_start FOLDER`.

For each seed three runs of configs/mnist_demo.yaml: one on the digits 0 to 8, a cold one on all ten, and one of half
the images that starts from the first. What is there already is not run again; FOLDER/warm_start.json has the figures.
Two more arguments are the images of the cold run and of that on nine digits.
"""

import json
import sys
import time
from pathlib import Path

import torch

import ganscale
from ganscale.config import Config, Dataset
from ganscale.data.images import ImageSource
from ganscale.data.mnist import digits

SEEDS = (0, 1, 2)
BEFORE, COLD = 96_000, 96_000
"""Images of the run on nine digits and of the cold one, by default."""
EVERY_COLD, EVERY_WARM = 32_000, 8_000
"""Images between two evaluations."""
SETTINGS = (
    *("wandb.mode=disabled", "log.samples_every=1e9", "log.details=false", "train.device=cpu", "cluster.num_workers=1"),
    *("log.every=16_000", "checkpoint.every=64_000", "eval.metrics=[frechet]", "eval.num_samples=5000"),
)
METRIC = "frechet"


def open_nine_digits(config: Config, device: torch.device, dtype: torch.dtype) -> ImageSource:
    """The training digits without the nines.

    Args:
        config: the run.
        device: where the images are kept.
        dtype: of the normalized images.
    """
    images, labels = digits("train", config.data.resolution)
    kept = labels < 9
    return ImageSource(images[kept], labels[kept], 9, seed=config.run.seed, device=device, dtype=dtype)


def curve(folder: Path, name: str, *overrides: str) -> dict[str, float]:
    """Train a run to its end; its Fréchet distances by images, as texts.

    Args:
        folder: of the runs.
        name: of the run.
        overrides: of configs/mnist_demo.yaml.
    """
    settings = [*SETTINGS, f"run.dir={folder}", f"run.name={name}", *overrides]
    result = ganscale.Trainer("configs/mnist_demo.yaml", settings, launcher="local").fit()
    return {str(row["images"]): row[METRIC] for row in result.metrics if METRIC in row}


def main(arguments: list[str]) -> int:
    """Run what is missing and print a line per seed.

    Args:
        arguments: the folder of the runs, images of the cold one, and of the one on nine digits.
    """
    folder = Path(arguments[0])
    images, first = map(int, [*arguments[1:3], *(COLD, BEFORE)[len(arguments) - 1 :]])
    digits = tuple("012345678")
    source = "benchmarks.warm_start:open_nine_digits"
    entry = Dataset(source, "MNIST without nines", channels=1, num_classes=9, class_names=digits)
    ganscale.register(datasets={"nine_digits": entry})
    rows, start = [], time.process_time()
    for seed in SEEDS:
        before = (f"run.seed={seed + 100}", "data.name=nine_digits", f"train.images={first}", "eval.every=0")
        curve(folder, f"nine_{seed}", "eval.metrics=[]", *before)
        cold = curve(folder, f"cold_{seed}", f"run.seed={seed}", f"train.images={images}", f"eval.every={EVERY_COLD}")
        origin = f"train.init_from={folder / f'nine_{seed}'}"
        settings = (f"run.seed={seed}", f"train.images={images // 2}", f"eval.every={EVERY_WARM}", origin)
        warm = curve(folder, f"warm_{seed}", *settings)
        target = cold[str(max(map(int, cold)))]
        reached = min((int(at) for at, value in warm.items() if value <= target), default=None)
        rows.append({"seed": seed, "target": target, "reached": reached, "cold": cold, "warm": warm})
        text = (
            "not reached" if reached is None else f"reached after {reached:,} images, {reached / images:.2f} of these"
        )
        print(f"seed {seed}: cold start ends at {target:.2f} after {images:,} images; warm start: {text}", flush=True)
        (folder / "warm_start.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{(time.process_time() - start) / 60:.1f} core-minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
