"""A sweep's folder with made-up results, as if it had been run."""

import json
import math
from pathlib import Path

from ganscale.sweep.plan import SweepPlan, make_plan
from ganscale.sweep.results import SweepFolder, TrialRow, prepare
from ganscale.sweep.sampler import uniform
from ganscale.sweep.score import SeedResult
from tests.sweep.sweeps import RING, sweep

DRAWS = {
    "objective": {"grid": {"gan": {"loss.label_smoothing": 0.0}, "wgan": {"loss.name": "wasserstein"}}},
    "optim.lr_g": {"loguniform": [1e-4, 1e-2]},
    "optim.lr_d": {"loguniform": [1e-4, 1e-2]},
    "penalty.gp": {"uniform": [1, 10], "when": {"objective": "wgan"}},
    "model.latent_dim": {"choice": [2, 4, 8]},
}


def made_up(folder: Path, *, num_configs: int = 12, **settings: object) -> tuple[SweepPlan, SweepFolder]:
    """A rate near 1e-3 is good, wgan is better, the rest is noise; very high rates fail on some seeds."""
    given = {"name": "made", "dir": str(folder), "metrics": ["frechet", "modes"], "threshold": 40.0, "confirm_seeds": 2}
    plan = make_plan(sweep(DRAWS, run=RING, num_configs=num_configs, **{**given, **settings}), {})
    place = SweepFolder(folder / "made")
    place.trials.mkdir(parents=True)
    prepare(place, plan.sweep, plan.base)
    for number in range(len(plan.sampler)):
        write_trial(plan, place.path / "trials" / f"{number:04d}", number, plan.seeds)
    return plan, place


def write_trial(plan: SweepPlan, trial: Path, number: int, seeds: tuple[int, ...]) -> None:
    """One configuration's files."""
    drawn = plan.sampler[number]
    trial.mkdir(parents=True)
    (trial / "drawn.json").write_text(json.dumps(drawn), encoding="utf-8")
    off = abs(math.log10(drawn["optim.lr_g"]) + 3) * 40 + 20 * (drawn["objective"] == "gan")
    stopped = number % 7 == 6
    rows = []
    for images in (320, 640) if stopped else (320, 640, 960, 1280):
        found = []
        for seed in seeds:
            luck = uniform(0, f"luck/{seed}", number)
            value = 10 + off + 8 * luck + 100 * 320 / images
            failure = "collapse: made up" if drawn["optim.lr_g"] > 5e-3 and luck > 0.6 else ""
            found.append(SeedResult(seed, images, {"frechet": value, "modes": round(8 - off / 10 + luck)}, failure))
        rows.append(TrialRow(images, drawn, tuple(found), 1.0, images == 1280))
    text = "".join(json.dumps(row.as_json()) + "\n" for row in rows)
    (trial / "rows.jsonl").write_text(text, encoding="utf-8")
    end = {"status": "stopped" if stopped else "complete", "reason": ""}
    (trial / "end.json").write_text(json.dumps(end), encoding="utf-8")
