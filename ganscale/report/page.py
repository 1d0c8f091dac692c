"""The report as one HTML file: `templates/` filled by Jinja2, curves drawn by uPlot and the script in `assets/`."""

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import ganscale
from ganscale.config.evaluation import METRICS
from ganscale.config.titles import data_title, metric_title, value_title, within
from ganscale.evaluation.compare import by_protocol
from ganscale.evaluation.metrics.result import shown
from ganscale.report.charts import Chart, as_data, charts
from ganscale.report.images import plots, real_grids, sample_strips
from ganscale.report.overview import KEY_FACTS, duration, overview
from ganscale.report.record import RunRecord
from ganscale.report.settings import MISSING, defaults, differing, plain
from ganscale.report.sweep import SweepRecord, trial_runs

EVENT_TITLES = {"kind": "verdict", "text": "what was found, and what followed"}
"""Heads of columns of health events; others are written as they are."""


def render(runs: Sequence[RunRecord], sweeps: Sequence[SweepRecord] = (), *, title: str = "") -> str:
    """The whole page.

    Args:
        runs: with distinct names.
        sweeps: whose trials are shown, in tables and as curves.
        title: of the page; by default the names of sweeps and runs.
    """
    names = [each.name for each in (*sweeps, *runs)]
    rest = f" and {len(names) - 2} more" if len(names) > 3 else ""
    all_runs = [*runs, *(run for sweep in sweeps for run in trial_runs(sweep, prefix=sweep.name * (len(sweeps) > 1)))]
    drawn = charts(all_runs)
    strips = sample_strips(all_runs)
    events = [
        {"run": index, "images": event["images"]}
        for index, run in enumerate(all_runs)
        for event in run.events
        if isinstance(event.get("images"), int)
    ]
    groups = list(dict.fromkeys(chart.group for chart in drawn))
    sections = {
        "overview": bool(runs),
        "samples": bool(strips),
        "quality": "Quality" in groups or any(run.evaluations for run in runs),
        "curves": any(group != "Quality" for group in groups),
        "health": bool(runs),
        "settings": any(run.config for run in runs),
    }
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title or ", ".join(names[:2] if rest else names) + rest,
            written=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
            version=ganscale.__version__,
            sections=[name for name, wanted in sections.items() if wanted],
            sweeps=sweeps,
            plots=[plots(sweep.path / "plots") for sweep in sweeps],
            runs=runs,
            overview=overview(runs),
            key_facts=KEY_FACTS,
            event_titles=EVENT_TITLES,
            reals=real_grids(all_runs),
            groups=groups,
            scores=_scores(runs),
            numbers=_numbers(all_runs, drawn),
            event_keys=list(
                dict.fromkeys(key for run in runs for event in run.events for key in event if key != "images")
            ),
            settings=_settings(runs),
            data={"runs": [run.name for run in all_runs], "events": events, "strips": strips, **as_data(drawn)},
            **_assets(),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ganscale.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": lambda value: MISSING if value is None or not math.isfinite(value) else shown(value),
        "count": lambda value: f"{value:,.0f}" if isinstance(value, int | float) else MISSING,
        "uncertain": lambda value: f"{value:.2g}",
        "duration": duration,
        "metric": metric_title,
        "data": data_title,
        "within": lambda value, name: None if value is None else within(name, value),
        "breakable": lambda name: Markup("<wbr>").join(re.split(r"(?<=[.,_])", name)),
        "percent": "{:.0%}".format,
        "signed": "{:+.0%}".format,
        "plain": plain,
    }
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _assets() -> dict[str, Any]:
    """Styles, scripts and the policy that allows only these, by their hashes, and nothing from elsewhere."""
    folder = files("ganscale.report").joinpath("assets")
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    styles = [texts["uPlot.min.css"], texts["style.css"]]
    scripts = [f"/*\n{texts['uPlot.LICENSE']}*/\n{texts['uPlot.iife.min.js']}", texts["report.js"]]
    hashes = [" ".join(f"'sha256-{_sha256(text)}'" for text in each) for each in (styles, scripts)]
    policy = (
        f"default-src 'none'; img-src data:; style-src {hashes[0]}; script-src {hashes[1]}; "
        "base-uri 'none'; form-action 'none'"
    )
    return {
        "styles": [Markup(text) for text in styles],
        "scripts": [Markup(text) for text in scripts],
        "policy": policy,
    }


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _scores(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """For each protocol: the newest evaluation of each run, the metrics, and each metric's best value of several."""
    tables = []
    for group in by_protocol({run.name: run.evaluations for run in runs}).values():
        newest = {run: evaluations[-1] for run, evaluations in group.items()}
        values = {
            name: [
                e.scores[name].value
                for e in newest.values()
                if name in e.scores and math.isfinite(e.scores[name].value)
            ]
            for name in METRICS
            if any(name in e.scores for e in newest.values())
        }
        best = {
            name: max(found) if METRICS[name].higher_is_better else min(found)
            for name, found in values.items()
            if len(found) > 1 and METRICS[name].is_goal
        }
        first = next(iter(newest.values()))
        through = value_title("eval.extractor", first.extractor)
        caption = (
            f"Newest scores, of {first.num_samples:,} samples beside {data_title(first.data)}, seen through {through}"
        )
        metrics = {name: METRICS[name] for name in values}
        tables.append({"caption": caption, "newest": newest, "metrics": metrics, "best": best})
    return tables


def _numbers(runs: Sequence[RunRecord], drawn: Sequence[Chart]) -> list[tuple[str, ...]]:
    """Every curve as a row: name, run, number of points, first, least, greatest and last value."""
    rows = []
    for chart in drawn:
        for curve in chart.curves:
            values = [value for _, value in curve.points if math.isfinite(value)]
            name = f"{chart.title} ({curve.role})" if curve.role else chart.title
            ends = [shown(value) for value in (values[0], min(values), max(values), values[-1])]
            rows.append((name, runs[curve.run].name, str(len(values)), *ends))
    return rows


def _settings(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Settings that differ between runs, or of a single run from the defaults; all settings; and environments."""
    configs = [run.config for run in runs]
    return {
        "differing": differing([*map(defaults, configs[: len(configs) == 1]), *configs]),
        "all": differing([{}, *configs]),
        "environment": differing([{}, *(run.environment for run in runs)]),
    }
