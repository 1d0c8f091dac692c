"""The panels of W&B dashboards, for runs and for a sweep, as plain data for `tracking.wandb_dashboards`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ganscale.config.evaluation import METRICS
from ganscale.config.titles import metric_title
from ganscale.tracking.families import FAMILIES, GROUPS

SAMPLE_TABLE = "sample_table"
"""Under which W&B has the table of samples."""
PENALTIES = ("gp", "r1", "r2", "dragan", "drift", "lecam", "centering", "orthogonal")
LOGARITHMIC = frozenset({"Gradient norm", "Learning rate"})
PLOTS = ("success", "success_curves", "importance", "learning_curves", "parallel_coordinates", "pareto")
"""Keys of the plots that a sweep's summary run may have."""
ABSTRACT = """\
*Replace this paragraph: which question do these runs answer, what is the answer, and how sure is it?*

- **Data, networks, objective:** ...
- **Result:** ... (mean over seeds, its interval, and the score of real examples beside it)
- **What did not work:** ...
"""
"""The beginning of a report, for its author to write."""
REPRODUCE = """\
Each run's config is in its tab *Overview*, with the git commit, versions and devices below `environment`. The same
config and seed give the same result on any number of workers:

```sh
git checkout COMMIT && make setup  # in a checkout of ganscale: the run's commit
.venv/bin/ganscale train config.yaml  # the file of the run's folder
.venv/bin/ganscale evaluate runs/NAME
```
"""
"""The end of a report."""
RUN_NOTES: Mapping[str, str] = {
    "Samples": "Samples of the generator's moving average (EMA), always from the same latents. In the table "
    "(`log.table_samples`) sort by D's logit or by the distance to the nearest real image; tables of "
    "several runs join on `index` and `images`.",
    "Quality": "Each metric is drawn beside its value for real examples (the floor). Only scores of the same data, "
    "number of samples and extractor are comparable.",
    "Training": "Numbers of the training batches; the x axis is real images shown to the discriminator.",
    "Speed and memory": "Over all workers; single points include evaluations and start-up.",
    "Faults": "Failed attempts, changes of the number of workers, verdicts and rollbacks. Goodput is the share of "
    "the time whose work is in the run.",
    "Settings": "Settings in which the runs differ.",
}
"""What a reader of a report must know of a section."""
SWEEP_NOTES: Mapping[str, str] = {
    "Trials": "A trial is one configuration with several seeds. The bound is the pessimistic end of the interval of "
    "the mean over the seeds, by which trials are compared.",
    "Settings": "Importance is W&B's, of a random forest; among the plots is that of ganscale, by ranks and with the "
    "level of chance.",
    "Summary": "Plots and table of the whole sweep.",
}
"""The same for sweeps."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: lines over images, pictures, a table or bars of the runs' summaries, settings that differ, parallel
            coordinates or importance.
        title: of the panel.
        keys: logged keys of the lines, pictures, bars or table; for the last two kinds, settings and then the score.
        logarithmic: whether the y axis is logarithmic.
    """

    kind: Literal["lines", "pictures", "table", "bars", "settings", "parallel", "importance"]
    title: str
    keys: tuple[str, ...] = ()
    logarithmic: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A workspace and a report with the same panels.

    Attributes:
        name: of both.
        view: the workspace's part of its URL; saving the same view again updates the workspace.
        description: one sentence.
        group: W&B group whose runs are shown; empty for all runs.
        sections: headline to panels.
        notes: headline to what a report has below it, in Markdown.
    """

    name: str
    view: str
    description: str
    group: str
    sections: dict[str, tuple[Panel, ...]]
    notes: Mapping[str, str] = field(default_factory=dict)


def for_runs() -> Dashboard:
    """The dashboard of a project's runs."""
    samples = (
        Panel("pictures", "Samples, fixed latents", ("samples",)),
        Panel("pictures", "Real images", ("real",)),
        Panel("pictures", "Interpolation", ("interpolation",)),
        Panel("pictures", "Samples by class", ("classes",)),
        Panel("table", "Samples one by one", (SAMPLE_TABLE,)),
    )
    quality = tuple(
        Panel("lines", f"{metric_title(name)} ({_better(name)} is better)", (name, f"{name}_floor")) for name in METRICS
    )
    sections = {"Samples": samples, "Quality": quality}
    for group in GROUPS:
        panels = [
            Panel("lines", family.headline, tuple(family.members), family.title in LOGARITHMIC)
            for family in FAMILIES
            if family.group == group
        ]
        if group == "Training":
            panels.append(Panel("lines", "Penalties", tuple(f"penalty_{name}" for name in PENALTIES), logarithmic=True))
            panels += [Panel("lines", f"Logits, {side}", (f"{side}_logits",)) for side in ("real", "fake")]
        if panels:
            sections[group] = tuple(panels)
    sections["Faults"] = (
        Panel("bars", "Goodput (share of the time)", ("goodput",)),
        Panel("table", "Time line", ("timeline",)),
    )
    sections["Settings"] = (Panel("settings", "What differs between runs"),)
    description = "Runs of ganscale; the x axis is images."
    return Dashboard("ganscale runs", "ganscaleruns", description, "", sections, RUN_NOTES)


def for_sweep(name: str, metrics: Sequence[str], settings: Sequence[str]) -> Dashboard:
    """The dashboard of a sweep's trials.

    Args:
        name: of the sweep, which is also its W&B group.
        metrics: that are optimized.
        settings: keys that are searched; of several joined by commas, the first stands for all.
    """
    firsts = dict.fromkeys(setting.split(",")[0].strip() for setting in settings)
    curves = tuple(
        Panel(
            "lines",
            f"{metric_title(metric)}: mean and bound ({_better(metric)} is better)",
            (metric, f"{metric}_bound"),
        )
        for metric in metrics
    )
    sections = {
        "Trials": (*curves, Panel("lines", "Score", ("score",)), Panel("lines", "Failed seeds", ("failures",))),
        "Settings": (
            Panel("parallel", "Settings and score", (*firsts, "score")),
            Panel("importance", "What the score depends on", ("score",)),
            Panel("settings", "What differs between trials"),
        ),
        "Summary": (
            Panel("pictures", "Plots", PLOTS),
            Panel("table", "Table of trials", ("trials",)),
        ),
    }
    view = "sweep" + "".join(letter for letter in name.lower() if letter.isascii() and letter.isalnum())
    description = f"Trials of the sweep {name}; each has several seeds."
    return Dashboard(f"ganscale sweep {name}", view[:40], description, name, sections, SWEEP_NOTES)


def _better(name: str) -> str:
    return "higher" if name in METRICS and METRICS[name].higher_is_better else "lower"


def outline(dashboards: Sequence[Dashboard], *, entity: str, project: str) -> str:
    """The dashboards as text, for `--dry-run`.

    Args:
        dashboards: to list.
        entity: W&B team or user; empty for the account's default.
        project: W&B project.
    """
    lines = []
    for dashboard in dashboards:
        place = f"{entity or '(your default entity)'}/{project}"
        shown = f"runs of group {dashboard.group}" if dashboard.group else "all runs"
        lines.append(f"workspace and report {dashboard.name!r} in {place}, {shown}")
        for headline, panels in dashboard.sections.items():
            lines.append(f"  {headline}")
            lines += [f"    {panel.kind:10}  {panel.title}: {', '.join(panel.keys) or '-'}" for panel in panels]
    return "\n".join(lines)
