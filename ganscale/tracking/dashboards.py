"""The panels of W&B dashboards, for runs and for a sweep, as plain data for `tracking.wandb_dashboards`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ganscale.config.evaluation import METRICS
from ganscale.config.titles import metric_title
from ganscale.tracking.families import FAMILIES, GROUPS

PENALTIES = ("gp", "r1", "r2", "dragan", "drift", "lecam", "centering", "orthogonal")
LOGARITHMIC = frozenset({"Gradient norm", "Learning rate"})
PLOTS = ("success", "success_curves", "importance", "learning_curves", "parallel_coordinates", "pareto")
"""Keys of the plots that a sweep's summary run may have."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: lines over images, pictures, settings that differ, parallel coordinates or importance.
        title: of the panel.
        keys: logged keys of the lines or pictures; for the last two kinds, settings and then the score.
        logarithmic: whether the y axis is logarithmic.
    """

    kind: Literal["lines", "pictures", "settings", "parallel", "importance"]
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
    """

    name: str
    view: str
    description: str
    group: str
    sections: dict[str, tuple[Panel, ...]]


def for_runs() -> Dashboard:
    """The dashboard of a project's runs."""
    samples = (
        Panel("pictures", "Samples, fixed latents", ("samples",)),
        Panel("pictures", "Real images", ("real",)),
        Panel("pictures", "Interpolation", ("interpolation",)),
        Panel("pictures", "Samples by class", ("classes",)),
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
    sections["Settings"] = (Panel("settings", "What differs between runs"),)
    return Dashboard("ganscale runs", "ganscaleruns", "Runs of ganscale; the x axis is images.", "", sections)


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
            Panel("pictures", "Table of trials", ("trials",)),
        ),
    }
    view = "sweep" + "".join(letter for letter in name.lower() if letter.isascii() and letter.isalnum())
    description = f"Trials of the sweep {name}; each has several seeds."
    return Dashboard(f"ganscale sweep {name}", view[:40], description, name, sections)


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
