"""Which panels a W&B dashboard has, for runs and for a sweep, as plain data; `tracking.wandb_dashboards` makes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ganscale.config.evaluation import METRICS
from ganscale.reporting.charts import FAMILIES, GROUPS
from ganscale.reporting.sweep import SweepRecord

PENALTIES = ("gp", "r1", "r2", "dragan", "drift")
LOGARITHMIC = frozenset({"Gradient norm", "Learning rate"})
PLOTS = ("success", "success_curves", "importance", "learning_curves", "parallel_coordinates", "pareto")
"""Of a sweep's summary run, those that it has."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: lines over images (of a histogram: colors), pictures, settings that differ, parallel coordinates or
            importance.
        title: what it shows.
        keys: what is logged under: numbers of lines, pictures; of the last two, settings and then the score.
        logarithmic: whether the y axis is.
    """

    kind: Literal["lines", "pictures", "settings", "parallel", "importance"]
    title: str
    keys: tuple[str, ...] = ()
    logarithmic: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A workspace, and a report of the same panels.

    Attributes:
        name: of both.
        view: of the workspace in its address; the same one is updated the next time.
        description: in a sentence.
        group: W&B group whose runs are shown; empty for all runs.
        sections: headline to panels.
    """

    name: str
    view: str
    description: str
    group: str
    sections: dict[str, tuple[Panel, ...]]


def for_runs() -> Dashboard:
    """The dashboard of a project's runs."""
    samples = (
        Panel("pictures", "Samples, the same latents each time", ("samples",)),
        Panel("pictures", "Real examples", ("real",)),
        Panel("pictures", "Interpolation", ("interpolation",)),
        Panel("pictures", "Samples by class", ("classes",)),
    )
    quality = tuple(Panel("lines", f"{name} ({_better(name)} is better)", (name, f"{name}_floor")) for name in METRICS)
    sections = {"Samples": samples, "Quality": quality}
    for group in GROUPS:
        panels = [
            Panel("lines", family.title, tuple(family.members), family.title in LOGARITHMIC)
            for family in FAMILIES
            if family.group == group
        ]
        if group == "Training":
            panels.append(Panel("lines", "Penalties", tuple(f"penalty_{name}" for name in PENALTIES), logarithmic=True))
            panels += [Panel("lines", f"D's logits, {side}", (f"{side}_logits",)) for side in ("real", "fake")]
        if panels:
            sections[group] = tuple(panels)
    sections["Settings"] = (Panel("settings", "What differs between runs"),)
    return Dashboard("ganscale runs", "ganscaleruns", "Runs of ganscale; the x axis is images.", "", sections)


def for_sweep(sweep: SweepRecord) -> Dashboard:
    """The dashboard of a sweep's trials."""
    settings = _settings(sweep)
    curves = tuple(
        Panel("lines", f"{name}: mean and bound ({_better(name)} is better)", (name, f"{name}_bound"))
        for name in sweep.metrics
    )
    sections = {
        "Trials": (*curves, Panel("lines", "Score", ("score",)), Panel("lines", "Failed seeds", ("failures",))),
        "Settings": (
            Panel("parallel", "Settings and score", (*settings, "score")),
            Panel("importance", "What the score depends on", ("score",)),
            Panel("settings", "What differs between trials"),
        ),
        "Summary": (
            Panel("pictures", "Plots", PLOTS),
            Panel("pictures", "Table of trials", ("trials",)),
        ),
    }
    view = "sweep" + "".join(letter for letter in sweep.name.lower() if letter.isascii() and letter.isalnum())
    description = f"Trials of the sweep {sweep.name}; each has several seeds."
    return Dashboard(f"ganscale sweep {sweep.name}", view[:40], description, sweep.name, sections)


def _settings(sweep: SweepRecord) -> list[str]:
    """Settings that the sweep searched; a setting that stands for several counts as its first."""
    names = dict.fromkeys(name for trial in sweep.trials for name in trial.get("drawn") or {})
    return [name.split(",")[0].strip() for name in names]


def _better(name: str) -> str:
    return "higher" if name in METRICS and METRICS[name].higher_is_better else "lower"


def outline(dashboards: Sequence[Dashboard], *, entity: str, project: str) -> str:
    """What would be made, as text."""
    lines = []
    for dashboard in dashboards:
        place = f"{entity or '(your default entity)'}/{project}"
        shown = f"runs of group {dashboard.group}" if dashboard.group else "all runs"
        lines.append(f"workspace and report {dashboard.name!r} in {place}, {shown}")
        for headline, panels in dashboard.sections.items():
            lines.append(f"  {headline}")
            lines += [f"    {panel.kind:10}  {panel.title}: {', '.join(panel.keys) or '-'}" for panel in panels]
    return "\n".join(lines)
