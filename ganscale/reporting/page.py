"""The report as one HTML file: tables made here, curves and pictures drawn by the scripts in `assets/`."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

import ganscale
from ganscale.reporting import sweep_tables, tables
from ganscale.reporting.charts import GROUPS, Chart, as_data, charts
from ganscale.reporting.markup import Cell, Markup, element, embedded, join
from ganscale.reporting.pictures import real_grids, sample_strips
from ganscale.reporting.record import RunRecord
from ganscale.reporting.sweep import SweepRecord, trial_runs
from ganscale.storage.files import write_atomically

SCRIPTS = ("scale.js", "chart.js", "slider.js", "page.js")


class Part(NamedTuple):
    """A section: the name that links lead to, its headline and its content."""

    anchor: str
    headline: str
    content: Markup


def render(runs: Sequence[RunRecord], sweeps: Sequence[SweepRecord] = (), *, title: str = "") -> str:
    """The whole page.

    Args:
        runs: with distinct names.
        sweeps: whose trials are shown, in tables and as curves.
        title: of the page; by default the names of sweeps and runs.
    """
    named = title or _title([*(sweep.name for sweep in sweeps), *(run.name for run in runs)])
    about = [_sweep_part(sweep, number, len(sweeps)) for number, sweep in enumerate(sweeps)]
    counts = [f"{len(x)} {word}{'s' * (len(x) != 1)}" for x, word in ((sweeps, "sweep"), (runs, "run")) if x]
    runs = [*runs, *_trials(sweeps)]
    drawn = charts(runs)
    strips = sample_strips(runs)
    data = {
        "runs": [run.name for run in runs],
        "events": [{"run": i, "images": e["images"]} for i, run in enumerate(runs) for e in tables.dated(run.events)],
        "strips": strips,
        **as_data(drawn),
    }
    parts = [*about, *_parts(runs, drawn, has_strips=bool(strips))]
    scripts = [_asset(name) for name in SCRIPTS]
    style = _asset("style.css")
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    return Template(_asset("page.html")).substitute(
        policy=_policy(style, scripts),
        title=_escaped(named),
        subtitle=_escaped(f"{', '.join(counts)}; written {now}"),
        style=style,
        links=join([element("li", element("a", part.headline, href=f"#{part.anchor}")) for part in parts], ""),
        sections=join([_section(part) for part in parts]),
        footer=_escaped(f"Written by python -m ganscale.report, ganscale {ganscale.__version__}."),
        data=embedded(data),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def write(path: Path, page: str) -> None:
    """Write the page as a whole, making its folder if need be.

    Raises:
        OSError: the storage refuses; an older page stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)


def _sweep_part(sweep: SweepRecord, number: int, count: int) -> Part:
    headline = "Sweep" if count == 1 else f"Sweep {sweep.name}"
    return Part(f"sweep-{number}", headline, sweep_tables.section(sweep))


def _trials(sweeps: Sequence[SweepRecord]) -> list[RunRecord]:
    """Trials of all sweeps as runs, with the sweep's name where there are several."""
    several = len(sweeps) > 1
    return [
        replace(run, name=f"{sweep.name} {run.name}") if several else run
        for sweep in sweeps
        for run in trial_runs(sweep)
    ]


def _parts(runs: Sequence[RunRecord], drawn: Sequence[Chart], *, has_strips: bool) -> list[Part]:
    """The sections that these runs have something for."""
    plain = [run for run in runs if not run.is_trial]
    legend = element("div", "", data_legend="")
    parts = [Part("overview", "Overview", tables.overview(plain))] if plain else []
    if has_strips:
        note = "The generator's moving average at the same latents each time."
        samples = join([element("p", note), legend, element("div", "", id="player"), _reals(runs)])
        parts.append(Part("samples", "Samples", samples))
    groups = [group for group in GROUPS if any(chart.group == group for chart in drawn)]
    if "Quality" in groups or any(run.evaluations for run in runs):
        parts.append(Part("quality", "Quality", join([legend, tables.quality(runs), _host("Quality")])))
    others = [group for group in groups if group != "Quality"]
    if others:
        hosts = [piece for group in others for piece in (element("h3", group), _host(group))]
        numbers = element(
            "details",
            join([element("summary", "All numbers as a table"), tables.numbers(runs, drawn)]),
        )
        note = "Over images: real examples shown to D. Point, touch, or use the arrow keys to read values."
        parts.append(Part("curves", "Curves", join([element("p", note, class_="screen"), legend, *hosts, numbers])))
    if any(run.events for run in runs):
        parts.append(Part("health", "Health", tables.health(runs)))
    if any(run.config for run in runs):
        parts.append(Part("settings", "Settings", tables.settings(plain)))
    return parts


def _reals(runs: Sequence[RunRecord]) -> Markup:
    """Real examples, to hold the samples against."""
    figures = []
    for name, item in real_grids(runs):
        size = {"width": str(item["width"]), "height": str(item["height"])}
        image = Markup(
            element("img", "", src=item["source"], alt=f"Real examples of {name}", **size).removesuffix("</img>")
        )
        figures.append(element("figure", join([element("figcaption", f"Real examples, {name}"), image])))
    return element("div", join(figures), class_="strips reals") if figures else Markup()


def _host(group: str) -> Markup:
    return element("div", "", class_="charts", data_group=group)


def _section(part: Part) -> Markup:
    return element("section", join([element("h2", part.headline), part.content]), id=part.anchor)


def _title(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"


def _escaped(value: Cell) -> str:
    return join([value])


def _asset(name: str) -> str:
    return files("ganscale.reporting").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Nothing from elsewhere, and of what is inside only our own scripts and style, named by their hashes."""
    allowed = " ".join(_hash(script) for script in scripts)
    parts = ("default-src 'none'", "img-src data:", f"style-src {_hash(style)}", f"script-src {allowed}")
    return "; ".join((*parts, "base-uri 'none'", "form-action 'none'"))


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
