"""Creates W&B workspaces and reports from plain descriptions; needs wandb-workspaces and an account."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.tracking.dashboards import ABSTRACT, REPRODUCE, Dashboard, Panel
from ganscale.tracking.wandb_server import has_key

COLUMNS = 24
"""Width of a report in W&B's units."""
HEIGHT = 8
WORKSPACES, REPORTS = "wandb_workspaces.workspaces", "wandb_workspaces.reports.v2"
"""Modules of an optional package, imported on use."""


class DashboardError(ExecutionError):
    """W&B refused, or cannot be reached."""


def check_ready() -> None:
    """Check that a dashboard can be saved.

    Raises:
        ConfigError: wandb-workspaces is not installed, or no API key is set up.
    """
    if find_spec("wandb_workspaces") is None:
        remedy = "pip install 'ganscale[dashboard]', or look with --dry-run"
        raise ConfigError("wandb-workspaces is not installed", remedy=remedy)
    if not has_key():
        raise ConfigError("no W&B API key is set up", remedy="run `wandb login`, or look with --dry-run")


def save(dashboard: Dashboard, *, entity: str, project: str) -> list[str]:
    """Create or update the workspace and the report of a dashboard; return their addresses.

    Args:
        dashboard: sections and panels.
        entity: W&B team or user; empty for the account's default.
        project: W&B project.

    Raises:
        DashboardError: W&B refuses.
    """
    try:
        import wandb

        entity = entity or str(wandb.Api().default_entity)
        return [_save_workspace(dashboard, entity, project), _save_report(dashboard, entity, project)]
    except Exception as error:
        raise DashboardError(f"W&B refuses {dashboard.name!r} ({type(error).__name__}: {error})") from error


def make_workspace(dashboard: Dashboard, entity: str, project: str) -> Any:
    """Return the workspace of a dashboard, not saved.

    Args:
        dashboard: sections and panels.
        entity: W&B team or user.
        project: W&B project.
    """
    ws: Any = import_module(WORKSPACES)

    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=dashboard.name,
        sections=[
            ws.Section(name=headline, panels=[make_panel(panel) for panel in panels], is_open=True)
            for headline, panels in dashboard.sections.items()
        ],
        settings=ws.WorkspaceSettings(x_axis="images", max_runs=50),
        runset_settings=ws.RunsetSettings(filters=_filters(dashboard)),
    )
    workspace._internal_name = f"nw-{dashboard.view}-v"
    return workspace


def make_report(dashboard: Dashboard, entity: str, project: str) -> Any:
    """Return the report of a dashboard, not saved: an abstract to write, sections with notes, how to reproduce it.

    Args:
        dashboard: sections and panels.
        entity: W&B team or user.
        project: W&B project.
    """
    wr: Any = import_module(REPORTS)

    report = wr.Report(
        entity=entity, project=project, title=dashboard.name, description=dashboard.description, width="fluid"
    )
    report.blocks = [wr.MarkdownBlock(text=ABSTRACT), wr.TableOfContents()]
    for headline, panels in dashboard.sections.items():
        runset = wr.Runset(entity=entity, project=project, filters=_filters(dashboard))
        placed = [make_panel(panel, layout=_layout(index)) for index, panel in enumerate(panels)]
        note = dashboard.notes.get(headline)
        report.blocks += [wr.H2(text=headline), *([wr.MarkdownBlock(text=note)] if note else [])]
        report.blocks.append(wr.PanelGrid(runsets=[runset], panels=placed))
    report.blocks += [wr.H2(text="How to reproduce"), wr.MarkdownBlock(text=REPRODUCE)]
    return report


def make_panel(panel: Panel, layout: Any = None) -> Any:
    """Return a panel of wandb-workspaces.

    Args:
        panel: its description.
        layout: place in a report's grid; None in a workspace.
    """
    wr: Any = import_module(REPORTS)

    place = {} if layout is None else {"layout": layout}
    if panel.kind == "lines":
        log = panel.logarithmic or None
        return wr.LinePlot(title=panel.title, x="images", y=list(panel.keys), log_y=log, **place)
    if panel.kind == "pictures":
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys), **place)
    if panel.kind == "table":
        return wr.WeavePanelSummaryTable(table_name=panel.keys[0], **place)
    if panel.kind == "bars":
        return wr.BarPlot(title=panel.title, metrics=list(panel.keys), **place)
    if panel.kind == "parallel":
        *settings, score = panel.keys
        columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in settings]
        columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(score)))
        return wr.ParallelCoordinatesPlot(title=panel.title, columns=columns, **place)
    if panel.kind == "importance":
        return wr.ParameterImportancePlot(with_respect_to=panel.keys[-1], **place)
    return wr.RunComparer(diff_only=True, **place)


def _layout(index: int) -> Any:
    """Three panels in a row."""
    wr: Any = import_module(REPORTS)

    width = COLUMNS // 3
    return wr.Layout(x=index % 3 * width, y=index // 3 * HEIGHT, w=width, h=HEIGHT)


def _filters(dashboard: Dashboard) -> str:
    return f"Metric('Group') == {dashboard.group!r}" if dashboard.group else ""


def _save_workspace(dashboard: Dashboard, entity: str, project: str) -> str:
    """Create it, or update the one that has its address."""
    ws: Any = import_module(WORKSPACES)

    workspace = make_workspace(dashboard, entity, project)
    try:
        workspace._internal_id = ws.Workspace.from_url(workspace.url)._internal_id
    except Exception:
        workspace._internal_id = ""  # none yet; W&B raises several errors for that
    workspace.save()
    return str(workspace.url)


def _save_report(dashboard: Dashboard, entity: str, project: str) -> str:
    """Create it, or update the newest of its title."""
    import wandb

    wr: Any = import_module(REPORTS)

    report = make_report(dashboard, entity, project)
    try:
        found = list(wandb.Api().reports(f"{entity}/{project}", name=dashboard.name))
    except ValueError:  # there is no such project yet; saving makes it
        found = []
    if found:
        report.id = wr.Report.from_url(found[0].url).id
    report.save()
    return str(report.url)
