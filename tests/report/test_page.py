"""The page as text: escaped, self-contained, complete."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ganscale.report.__main__ import main
from ganscale.report.markup import Markup, element, embedded, table
from ganscale.report.page import render
from ganscale.report.record import read_run
from ganscale.tracking.images import write_png
from tests.report import folders

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Elements(HTMLParser):
    """Names and attributes of all elements of a page, and the texts of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inner: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style") and data.strip():
            self.inner.append((self.found[-1][0], data))


def page_of(*paths: Path) -> str:
    return render([read_run(path) for path in paths])


def data_of(page: str) -> dict:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert match
    return json.loads(match[1])


def test_all_parts_are_there_where_there_is_something_for_them(tmp_path: Path) -> None:
    bare = page_of(folders.run(tmp_path / "bare"))
    assert re.findall(r'href="#(\w+)"', bare) == ["overview", "curves", "settings"]
    evaluations = [folders.evaluation(10, 9.0), folders.evaluation(20, 5.25)]
    events = [{"images": 20, "kind": "collapse", "n": 3}, {"kind": "undated"}]
    full = page_of(
        folders.run(tmp_path / "full", "optim.lr_g=1e-3", evaluations=evaluations, pictures=[0, 20], events=events)
    )
    anchors = ["overview", "samples", "quality", "curves", "health", "settings"]
    assert re.findall(r'href="#(\w+)"', full) == anchors
    assert re.findall(r'<section id="(\w+)"', full) == anchors
    assert ">5.25</span>" in full
    assert " ± 0.25" in full
    assert "real examples (floor)" in full
    assert "<td>collapse</td>" in full
    assert re.search(r"optim\.lr_g</th><td>0\.0002</td><td>0\.001</td>", full)
    assert [len(strip["items"]) for strip in data_of(full)["strips"]] == [2]
    assert data_of(full)["events"] == [{"run": 0, "images": 20}]


def test_of_several_runs_the_best_stands_out_and_differences_are_shown(tmp_path: Path) -> None:
    one = folders.run(tmp_path / "one", "optim.lr_g=1e-3", evaluations=[folders.evaluation(20, 5.25)])
    two = folders.run(tmp_path / "two", evaluations=[folders.evaluation(20, 7.5)])
    page = page_of(one, two)
    assert '<span class="best">5.25</span>' in page
    assert '<span class="value">7.5</span>' in page
    assert re.search(r"optim\.lr_g</th><td>0\.001</td><td>0\.0002</td>", page)
    assert data_of(page)["runs"] == ["one", "two"]


def test_real_examples_stand_once_for_each_data_set(tmp_path: Path) -> None:
    paths = [folders.run(tmp_path / name, pictures=[0]) for name in ("a", "b")]
    paths.append(folders.run(tmp_path / "c", "data.resolution=16", pictures=[0]))
    for number, path in enumerate(paths):
        write_png(path / "real.png", np.full((8, 8 + number, 3), number, np.uint8))
    (paths[2] / "real.png").write_bytes(b"damaged")
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page_of(*paths)) == ["Real examples, mnist 28"]
    write_png(paths[2] / "real.png", np.zeros((8, 10, 3), np.uint8))
    page = page_of(*paths)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page) == ["Real examples, mnist 28", "Real examples, mnist 16"]
    assert re.findall(r'<img src="data:image/webp;base64,[^"]+" alt="[^"]+" width="(\d+)"', page) == ["8", "10"]


def test_where_a_run_ran_is_shown(tmp_path: Path) -> None:
    path = folders.run(tmp_path / "a")
    assert "Where it ran" not in page_of(path)
    (path / "environment.json").write_text(json.dumps({"git": {"commit": "abc123", "dirty": True}}))
    page = page_of(path)
    assert re.search(r"git\.commit</th><td>abc123</td>", page)
    (path / "environment.json").write_text("[1]")
    assert "Where it ran" not in page_of(path)


def test_nothing_that_a_run_says_becomes_markup(tmp_path: Path) -> None:
    events = [{"images": 10, EVIL: EVIL}]
    path = folders.run(tmp_path / "a", rows=[{"images": 10, EVIL: 1.0}, {"images": 20, EVIL: 2.0}], events=events)
    (path / "config.yaml").write_text(json.dumps({"run": {"name": EVIL}, EVIL: EVIL, "data": {"name": EVIL}}))
    plain = Elements(page_of(folders.run(tmp_path / "b", events=[{"images": 10, "kind": "x"}])))
    run = read_run(path)
    page = render([run.__class__(**{**run.__dict__, "name": EVIL})], title=EVIL)
    evil = Elements(page)
    assert "alert(1)</script>" not in page
    assert {tag for tag, _ in evil.found} == {tag for tag, _ in plain.found}
    assert sum(tag == "script" for tag, _ in evil.found) == sum(tag == "script" for tag, _ in plain.found)
    assert not any(name.startswith("on") or name == "style" for _, given in evil.found for name in given)
    assert data_of(page)["runs"] == [EVIL]


def test_nothing_comes_from_elsewhere_and_only_named_scripts_run(tmp_path: Path) -> None:
    parsed = Elements(page_of(folders.run(tmp_path / "a", pictures=[0])))
    places = [value for _, given in parsed.found for name, value in given.items() if name in ("src", "href")]
    assert all(value and value.startswith(("#", "data:image/webp;")) for value in places)
    policy = next(given["content"] for tag, given in parsed.found if given.get("http-equiv"))
    assert policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    scripts = [text for tag, text in parsed.inner if not text.startswith('{"runs"')]
    assert len(scripts) == 5
    for text in scripts:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", "".join(scripts))


def test_markup_is_escaped_once() -> None:
    assert element("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'
    assert element("p", Markup("<b>")) == "<p><b></p>"
    assert "<td>a &amp; b</td>" in table("c", ["x", "y"], [["1", "a & b"]])
    assert json.loads(embedded("</script>")) == "</script>"
    assert "<" not in embedded({"<": "<!--"})
    with pytest.raises(ValueError):
        embedded(float("nan"))


def test_the_command_writes_the_page_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folders.run(tmp_path / "a")
    assert main([str(path)]) == 0
    assert str(path / "report.html") in capsys.readouterr().out
    assert main([str(path), str(folders.run(tmp_path / "b")), "--out", str(tmp_path / "deep" / "x.html")]) == 0
    assert (tmp_path / "deep" / "x.html").read_text().startswith("<!doctype html>")
    assert sorted(file.name for file in (tmp_path / "deep").iterdir()) == ["x.html"]


def test_a_sweep_and_a_run_share_a_page(tmp_path: Path) -> None:
    trials = [folders.trial(0, {"lr": 0.1}, [folders.seed(0, modes=5.0)] * 3)]
    paths = [folders.sweep(tmp_path / "s", trials), folders.run(tmp_path / "a")]
    assert main([*map(str, paths), "--out", str(tmp_path / "x.html")]) == 0
    page = (tmp_path / "x.html").read_text()
    assert "<title>stability, a</title>" in page
    assert data_of(page)["runs"] == ["a", "trial 0000"]


def test_mistakes_are_told_with_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such run" in capsys.readouterr().err
    path = folders.run(tmp_path / "a")
    assert main([str(path), "--out", str(path / "config.yaml" / "x.html")]) == 1
    assert "could not be written" in capsys.readouterr().err
