"""The page: escaped, self-contained, complete."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ganscale.report.__main__ import main
from ganscale.report.page import render
from ganscale.report.record import read_run
from ganscale.tracking.images import write_png
from tests.report import folders
from tests.report.folders import Page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<!--"


def page_of(*paths: Path) -> Page:
    return Page(render([read_run(path) for path in paths]))


def sections(page: Page) -> list[str | None]:
    return [given["id"] for tag, given in page.tags if tag == "section"]


def test_sections_are_present_if_they_have_content(tmp_path: Path) -> None:
    bare = page_of(folders.run(tmp_path / "bare"))
    assert sections(bare) == ["overview", "curves", "health", "settings"]
    evaluations = [folders.evaluation(10, 9.0), folders.evaluation(20, 5.25)]
    events = [{"images": 20, "kind": "collapse", "n": 3}, {"kind": "undated"}]
    path = folders.run(tmp_path / "x", "optim.lr_g=1e-3", evaluations=evaluations, pictures=[0, 20], events=events)
    full = page_of(path)
    assert sections(full) == ["overview", "samples", "quality", "curves", "health", "settings"]
    links = [given["href"] for tag, given in full.tags if tag == "a"]
    assert links == [f"#{name}" for name in sections(full)]
    assert ["x", "20", "5.25 ± 0.25", "8"] in full.rows
    assert ["x", "20", "collapse", "3"] in full.rows
    assert ["x", "–", "undated", "–"] in full.rows
    assert full.row("optim.lr_g") == ["0.0002", "0.001"]
    assert [len(strip["items"]) for strip in full.data["strips"]] == [2]
    assert full.data["events"] == [{"run": 0, "images": 20}]


def test_of_several_runs_the_best_is_marked(tmp_path: Path) -> None:
    one = folders.run(tmp_path / "one", "optim.lr_g=1e-3", evaluations=[folders.evaluation(20, 5.25)])
    two = folders.run(tmp_path / "two", evaluations=[folders.evaluation(20, 7.5)])
    text = render([read_run(one), read_run(two)])
    assert re.search(r'class="best">5.25<', text)
    assert not re.search(r'class="best">7.5<', text)
    assert Page(text).row("optim.lr_g") == ["0.001", "0.0002"]
    assert Page(text).data["runs"] == ["one", "two"]


def test_real_images_appear_once_for_each_data_set(tmp_path: Path) -> None:
    paths = [folders.run(tmp_path / name, pictures=[0]) for name in ("a", "b")]
    paths.append(folders.run(tmp_path / "c", "data.resolution=16", pictures=[0]))
    for number, path in enumerate(paths):
        write_png(path / "real.png", np.full((8, 8 + number, 3), number, np.uint8))

    def widths() -> list[str | None]:
        return [given["width"] for tag, given in page_of(*paths).tags if tag == "img"]

    assert widths() == ["8", "10"]
    (paths[2] / "real.png").write_bytes(b"damaged")
    assert widths() == ["8"]


def test_the_environment_is_shown(tmp_path: Path) -> None:
    path = folders.run(tmp_path / "a")
    (path / "environment.json").write_text(json.dumps({"git": {"commit": "abc123", "dirty": True}}))
    assert page_of(path).row("git.commit") == ["abc123"]
    (path / "environment.json").write_text("[1]")
    assert not any(row[0] == "git.commit" for row in page_of(path).rows)


def test_text_of_a_run_or_sweep_never_becomes_markup(tmp_path: Path) -> None:
    events = [{"images": 10, EVIL: EVIL}]
    path = folders.run(tmp_path / "a", rows=[{"images": 10, EVIL: 1.0}, {"images": 20, EVIL: 2.0}], events=events)
    (path / "config.yaml").write_text(json.dumps({"run": {"name": EVIL}, EVIL: EVIL, "data": {"name": EVIL}}))
    plain = page_of(folders.run(tmp_path / "b", events=[{"images": 10, "kind": "x"}]))
    text = render([replace(read_run(path), name=EVIL)], title=EVIL)
    evil = Page(text)
    assert "alert(1)</script>" not in text
    assert {tag for tag, _ in evil.tags} == {tag for tag, _ in plain.tags}
    assert sum(tag == "script" for tag, _ in evil.tags) == sum(tag == "script" for tag, _ in plain.tags)
    assert not any(name.startswith("on") or name == "style" for _, given in evil.tags for name in given)
    assert evil.data["runs"] == [EVIL]


def test_nothing_is_loaded_and_only_named_scripts_run(tmp_path: Path) -> None:
    page = page_of(folders.run(tmp_path / "a", pictures=[0]))
    places = [value for _, given in page.tags for name, value in given.items() if name in ("src", "href", "srcset")]
    assert all(value and value.startswith(("#", "data:image/")) for value in places)
    policy = next(given["content"] for _, given in page.tags if given.get("http-equiv")) or ""
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    active = [text for text in page.texts if not text.startswith("{")]
    assert len(active) == policy.count("'sha256-") == 4
    assert any("MIT License" in text for text in active), "of uPlot"
    for text in active:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
        assert not re.search(r"@import|url\(|\bimport\(|fetch\(|XMLHttpRequest|innerHTML", text)


def test_the_command_writes_a_whole_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folders.run(tmp_path / "a")
    assert main([str(path)]) == 0
    assert str(path / "report.html") in capsys.readouterr().out
    assert main([str(path), str(folders.run(tmp_path / "b")), "--out", str(tmp_path / "deep" / "x.html")]) == 0
    assert (tmp_path / "deep" / "x.html").read_text().startswith("<!doctype html>")
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["x.html"]


def test_exit_codes_of_mistakes(tmp_path: Path) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    path = folders.run(tmp_path / "a")
    assert main([str(path), "--out", str(path / "config.yaml" / "x.html")]) == 1
