"""Images at several truncations, and precision against recall (Kynkäänniemi et al. 2019, section 4.1)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.config import ConfigError
from ganscale.config.checks import check_files
from ganscale.config.load import parse
from ganscale.evaluation.evaluator import Evaluator
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.grid import MAX_TILES, settings_text, to_array
from ganscale.parallel.replica import Replica
from ganscale.storage.files import write_atomically
from ganscale.tracking.images import image_grid, write_png
from ganscale.training.build import build_source

METRICS = ("precision", "recall", "frechet")


def parse_truncations(text: str) -> list[float]:
    """Truncations such as `0.5,0.7,1`, each from 0 to 1.

    Args:
        text: as on the command line.

    Raises:
        ConfigError: the syntax is wrong, or one lies outside.
    """
    try:
        psis = [float(part) for part in text.split(",")]
    except ValueError:
        psis = []
    if not psis or not all(0.0 <= psi <= 1.0 for psi in psis):
        remedy = "write numbers from 0 to 1, e.g. 0.5,0.7,1"
        raise ConfigError("no list of truncations", key="--truncations", value=text, remedy=remedy)
    return psis


class Truncated(nn.Module):
    """A generator at a truncation.

    Args:
        generator: of images.
        psi: in [0, 1].
    """

    def __init__(self, generator: LoadedGenerator, psi: float) -> None:
        super().__init__()
        self.generator, self.psi = generator, psi

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `[N, latent_dim]` and classes to images `[N, C, H, W]`."""
        return self.generator(z, labels, self.psi)


def evaluate_truncations(generator: LoadedGenerator, psis: Sequence[float], num_samples: int) -> list[Evaluation]:
    """Precision, recall and Frechet distance at each psi, all against the same real images.

    Args:
        generator: of a run, so that its data are known.
        psis: each in [0, 1].
        num_samples: of each, at least 10.

    Raises:
        ConfigError: the generator comes from an export, or its extractor's weights are not there.
    """
    if generator.config is None:
        remedy = "name the run's folder or one of its checkpoints"
        raise ConfigError("an export has no real images", key="--truncations", value=list(psis), remedy=remedy)
    raw = generator.config.model_dump(mode="json")
    config = parse({**raw, "eval": {**raw["eval"], "metrics": list(METRICS), "num_samples": num_samples}})
    check_files(config, scores=True)
    source = build_source(config, generator.device)
    evaluator = Evaluator(config, source, device=generator.device, replica=Replica())
    return [evaluator.evaluate(Truncated(generator, psi), generator.description.images) for psi in psis]


def save_truncations(
    generator: LoadedGenerator,
    folder: Path,
    seeds: Sequence[int],
    psis: Sequence[float],
    *,
    label: int | None = None,
    num_samples: int = 5_000,
    settings: Mapping[str, object] | None = None,
) -> tuple[list[Path], list[Evaluation]]:
    """Write `truncation.png` (a row per psi, the same seeds in each), and precision and recall as a curve and JSON.

    Args:
        generator: of a run of images.
        folder: where the files go.
        seeds: of the columns.
        psis: of the rows, each in [0, 1].
        label: class of the pictures, for conditional generators; all classes count in the scores.
        num_samples: that are judged at each psi.
        settings: further facts for the PNG's metadata.

    Raises:
        ConfigError: 2-D points, too many images, or as `evaluate_truncations`.
        OSError: the folder cannot be written.
    """
    key, value = "--truncations", ",".join(f"{psi:g}" for psi in psis)
    if not generator.description.is_image:
        raise ConfigError("points and latents are no images", key=key, value=value, remedy="name a run of images")
    if len(seeds) * len(psis) > MAX_TILES:
        remedy = f"name fewer: a grid has at most {MAX_TILES} images"
        raise ConfigError("too many for a grid", key="--seeds", value=f"{len(seeds)} seeds", remedy=remedy)
    scores = evaluate_truncations(generator, psis, num_samples)
    labels = None if label is None else [label] * len(seeds)
    rows = torch.cat([generator.sample(seeds, labels, psi) for psi in psis])
    facts = settings_text(generator, truncations=value, label=label, **(settings or {}))
    files = [folder / "truncation.png", folder / "truncation_curve.png", folder / "truncation.json"]
    write_png(files[0], image_grid(to_array(rows), columns=len(seeds)), facts)
    _draw(psis, scores, files[1])
    table = [{"truncation": psi, **each.as_json()} for psi, each in zip(psis, scores, strict=True)]
    write_atomically(files[2], json.dumps({**facts, "scores": table}, indent=1) + "\n")
    return files, scores


def _draw(psis: Sequence[float], scores: Sequence[Evaluation], path: Path) -> None:
    """Precision over recall, a point per psi."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    recall, precision = ([each.scores[name].value for each in scores] for name in ("recall", "precision"))
    axes.plot(recall, precision, marker="o", ms=4)
    for psi, x, y in zip(psis, recall, precision, strict=True):
        axes.annotate(f"psi {psi:g}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
    floor = scores[0].scores
    axes.plot(floor["recall"].floor, floor["precision"].floor, "x", color="gray", label="held-out real images")
    axes.set_xlabel("recall (higher: more of the data's variety)")
    axes.set_ylabel("precision (higher: more typical)")
    axes.set_title(f"Truncation, {scores[0].num_samples:,} samples at each psi", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
