"""Workspaces and reports as wandb-workspaces makes them, and that the second save updates the first."""

import json
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from ganscale.tracking import wandb_dashboards as module
from ganscale.tracking.dashboards import Dashboard, Panel, for_runs, for_sweep
from ganscale.tracking.wandb_dashboards import make_report, make_workspace, save

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
PANELS = (
    Panel("lines", "Loss", ("loss_d", "loss_g"), logarithmic=True),
    Panel("pictures", "Samples", ("samples",)),
    Panel("parallel", "Both", ("optim.lr_g", "score")),
    Panel("importance", "Which", ("score",)),
    Panel("settings", "Differences"),
    Panel("table", "Samples one by one", ("sample_table",)),
    Panel("bars", "Goodput", ("goodput",)),
)
SWEEP = Dashboard("sweep x", "sweepx", "Trials.", "x", {"All": PANELS}, {"All": "All of them."})


def test_every_panel_becomes_a_panel_of_wandb() -> None:
    model = make_workspace(SWEEP, "me", "p")._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    (section,) = [s for s in model["section"]["panelBankConfig"]["sections"] if s["name"] == "All"]
    views = [panel["viewType"] for panel in section["panels"]]
    kinds = [
        "Run History Line Plot",
        "Media Browser",
        "Parallel Coordinates Plot",
        "Parameter Importance",
        "Run Comparer",
        "Weave",
        "Bar Chart",
    ]
    assert views == kinds
    lines, media, parallel, importance, _, table, bars = [panel["config"] for panel in section["panels"]]
    assert importance["targetKey"] == "score"
    assert "sample_table" in json.dumps(table)
    assert bars["metrics"] == ["goodput"]
    assert (lines["xAxis"], lines["metrics"], lines["yLogScale"]) == ("images", ["loss_d", "loss_g"], True)
    assert media["mediaKeys"] == ["samples"]
    assert len(parallel["columns"]) == 2
    (runset,) = model["section"]["runSets"]
    (wanted,) = runset["filters"]["filters"]
    assert (wanted["key"]["name"], wanted["op"], wanted["value"]) == ("group", "=", "x")


def test_wandb_workspaces_0_4_has_the_private_fields_in_use() -> None:
    workspace = make_workspace(SWEEP, "me", "p")
    assert (workspace._internal_name, workspace._internal_id) == ("nw-sweepx-v", "")


@pytest.mark.parametrize("dashboard", [for_runs(), for_sweep("s", ["modes"], ["optim.lr_g"])], ids=["runs", "sweep"])
def test_a_report_has_a_headline_a_note_and_a_grid_per_section(dashboard: Dashboard) -> None:
    report = make_report(dashboard, "me", "p")
    kinds = [type(block).__name__ for block in report.blocks]
    sections = ["H2", "MarkdownBlock", "PanelGrid"] * len(dashboard.sections)
    assert kinds == ["MarkdownBlock", "TableOfContents", *sections, "H2", "MarkdownBlock"]
    assert [block.text for block in report.blocks[3:-2:3]] == list(dashboard.notes.values())
    heads = [block.text for block in report.blocks if type(block).__name__ == "H2"]
    assert heads == [*dashboard.sections, "How to reproduce"]
    assert list(dashboard.notes) == list(dashboard.sections)


def test_panels_of_a_report_stand_three_in_a_row() -> None:
    report = make_report(for_runs(), "me", "p")
    grid = next(block for block in report.blocks if type(block).__name__ == "PanelGrid")
    places = [(panel.layout.x, panel.layout.y) for panel in grid.panels][:4]
    assert places == [(0, 0), (8, 0), (16, 0), (0, 8)]


class Server:
    """What W&B holds, in place of its server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wandb, ws, wr = (import_module(name) for name in ("wandb", module.WORKSPACES, module.REPORTS))

        self.views: dict[str, str] = {}
        self.reports: dict[str, str] = {}
        server = self

        def load_view(url: str) -> Any:
            if url not in server.views:
                raise ValueError("no such view")
            return SimpleNamespace(_internal_id=server.views[url])

        def save_view(view: Any) -> None:
            known = server.views.setdefault(view.url, f"id-{len(server.views)}")
            assert view._internal_id in ("", known)
            assert (view._internal_id == "") == (view.url not in server.seen)
            server.seen.add(view.url)

        def save_report(report: Any) -> None:
            if not report.id:
                report.id = f"report-{len(server.reports)}"
            server.reports[report.id] = report.title

        def listed(path: str, name: str) -> list[Any]:
            if not server.reports:
                raise ValueError("no such project")
            return [SimpleNamespace(url=key) for key, title in server.reports.items() if title == name]

        self.seen: set[str] = set()
        monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="me", reports=listed))
        monkeypatch.setattr(ws.Workspace, "url", property(lambda view: f"{view.entity}/{view._internal_name}"))
        monkeypatch.setattr(ws.Workspace, "from_url", load_view)
        monkeypatch.setattr(ws.Workspace, "save", save_view)
        monkeypatch.setattr(wr.Report, "url", property(lambda report: f"{report.entity}/{report.id}"))
        monkeypatch.setattr(wr.Report, "from_url", lambda url: SimpleNamespace(id=url))
        monkeypatch.setattr(wr.Report, "save", save_report)


def test_the_second_time_updates_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)
    first = save(SWEEP, entity="", project="p")
    assert first == ["me/nw-sweepx-v", "me/report-0"]
    save(for_runs(), entity="", project="p")
    assert save(SWEEP, entity="", project="p") == first
    assert len(server.views) == len(server.reports) == 2


def test_a_failure_names_the_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr(module, "_save_workspace", refuse)
    with pytest.raises(module.DashboardError, match="sweep x"):
        save(SWEEP, entity="me", project="p")
