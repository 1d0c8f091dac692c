"""The page in a real browser: headless Chromium, where there is one, driven through chromedriver; no network."""

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganscale.report.__main__ import main
from ganscale.tracking.images import write_png
from tests.report import folders

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
WebDriverWait: Any = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MAX_BYTES = 5_000_000
CANVAS = "return document.querySelector('.chart canvas').toDataURL()"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not BROWSER or not DRIVER:
        pytest.skip("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}", *sandbox]
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with 1,000 rows of 40 numbers and 50 noisy sample grids."""
    folder = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(0)
    names = ["loss_d", "loss_g", *(f"number_{i}" for i in range(38))]
    values = generator.normal(size=(1000, 40)).cumsum(0)
    rows = [{"images": 100 * (i + 1), **dict(zip(names, map(float, row), strict=True))} for i, row in enumerate(values)]
    path = folders.run(folder / "large", rows=rows, events=[{"images": 5000, "kind": "collapse"}])
    for images in range(0, 100_000, 2000):
        tiles = generator.integers(0, 256, (58, 58, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        write_png(path / "samples" / f"{images:08d}.png", tiles)
    assert main([str(path)]) == 0
    return path / "report.html"


def open_page(browser: Any, page: Path, width: int = 1280, *, dark: bool = False) -> None:
    """Open the page in a window of so many pixels and wait until everything is drawn."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    calm = {"name": "prefers-reduced-motion", "value": "reduce"}  # no smooth scrolling away from a click
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme, calm]})
    browser.get(page.as_uri())
    ready = "return document.documentElement.dataset.ready === 'true'"
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(ready))
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def legend(browser: Any, chart: int = 0) -> list[str]:
    """Label and value of each entry of a chart's legend that is displayed."""
    rows = browser.find_elements("css selector", ".chart .u-legend")[chart].find_elements("css selector", "tr")
    cells = [[row.find_element("css selector", name).text for name in (".u-label", ".u-value")] for row in rows]
    return [": ".join(pair) for pair in cells if any(pair)]


def test_a_large_page_is_small_and_loads_nothing(browser: Any, large: Path) -> None:
    assert large.stat().st_size < MAX_BYTES
    open_page(browser, large)
    assert complaints(browser) == []
    assert browser.execute_script("return document.querySelectorAll('.chart canvas').length") == 39
    assert browser.execute_script("return document.querySelector('.chart').plot.data[0].length") == 1001
    loaded = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
    assert browser.execute_script(loaded) == []


def test_the_slider_shows_the_pictures(browser: Any, large: Path) -> None:
    open_page(browser, large)
    slider = browser.find_element("css selector", "input[type=range]")
    image = browser.find_element("css selector", ".strips img")
    caption = browser.find_element("css selector", ".strips figcaption")
    last, drawn = image.get_attribute("src"), browser.execute_script(CANVAS)
    assert "98,000 images" in caption.text
    slider.send_keys(webdriver.Keys.HOME)
    assert caption.text.splitlines() == ["After 0 images", "seed 0, moving average of G (half-life 30,000 images)"]
    assert image.get_attribute("src") != last
    assert image.get_property("naturalWidth") > 100
    slider.send_keys(webdriver.Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") == "2,000 images"
    assert "2,000 images" in image.get_attribute("alt")
    assert browser.execute_script(CANVAS) != drawn, "the moment is marked in the charts"
    browser.find_element("css selector", "button[aria-label=Later]").click()
    assert slider.get_attribute("aria-valuetext") == "4,000 images"
    assert complaints(browser) == []


def test_pointer_and_keys_read_values_in_all_charts(browser: Any, large: Path) -> None:
    open_page(browser, large)
    chart = browser.find_element("css selector", ".chart")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    at_rest = legend(browser)
    assert [row.split(":")[0] for row in at_rest] == ["images", "D", "G"]
    webdriver.ActionChains(browser).move_to_element(chart.find_element("css selector", ".u-over")).perform()
    assert legend(browser)[0] != at_rest[0]
    assert legend(browser, 1)[0] == legend(browser)[0]
    chart.send_keys(webdriver.Keys.END)
    assert legend(browser) == ["images: 100,000", *at_rest[1:]], "at rest the last values are shown"
    chart.send_keys(webdriver.Keys.ARROW_LEFT)
    assert legend(browser, 1)[0] == "images: 99,900"
    chart.send_keys(webdriver.Keys.ESCAPE)
    assert legend(browser) == at_rest
    assert complaints(browser) == []


def test_runs_are_hidden_axes_become_logarithmic_and_gaps_are_named(browser: Any, tmp_path: Path) -> None:
    rows = [{"images": i, "loss_d": 10.0**i if i < 6 else None} for i in range(1, 7)]
    scores = [folders.evaluation(images, 9.0) for images in (1, 5)]
    paths = [folders.run(tmp_path / n, rows=rows, pictures=[0, 5], evaluations=scores) for n in ("a<b>", "c&d")]
    assert main([*map(str, paths), "--out", str(tmp_path / "page.html")]) == 0
    open_page(browser, tmp_path / "page.html")
    assert [e.text for e in browser.find_elements("css selector", "#samples .legend label")] == ["a<b>", "c&d"]
    shown = "return [...document.querySelectorAll('.chart')].map(c => c.plot.series.slice(1).map(s => s.show))"
    floors = [[True, True, True]] * 2
    assert browser.execute_script(shown) == [*floors, [True, True]]
    assert legend(browser)[1:] == ["a<b>: 9 ± 0.25", "c&d: 9 ± 0.25", "floor: 1.5"]
    browser.find_element("css selector", "#samples .legend input").click()
    assert browser.execute_script(shown) == [[False, True, True]] * 2 + [[False, True]]
    figures = browser.find_elements("css selector", ".strips figure")
    assert [figure.is_displayed() for figure in figures] == [False, True]
    chart = browser.find_elements("css selector", ".chart")[2]
    chart.send_keys(webdriver.Keys.END)
    assert legend(browser, 2)[2] == "c&d: not finite"
    button = chart.find_element("css selector", "button")
    kind = "return arguments[0].plot.scales.y.distr"
    assert button.get_attribute("aria-pressed") == "true", "five powers of ten start out logarithmic"
    assert browser.execute_script(kind, chart) == 3
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert browser.execute_script(kind, chart) == 1
    assert browser.execute_script(shown)[2] == [False, True]
    assert complaints(browser) == []


def test_of_many_curves_the_nearest_is_named(browser: Any, tmp_path: Path) -> None:
    names = [f"run{i:02d}" for i in range(12)]
    paths = [
        folders.run(tmp_path / name, rows=[{"images": i, "mine": float(n)} for i in (0, 10)])
        for n, name in enumerate(names)
    ]
    assert main([*map(str, paths), "--out", str(tmp_path / "page.html")]) == 0
    open_page(browser, tmp_path / "page.html")
    chart = browser.find_element("css selector", ".chart")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    top = browser.execute_script("return arguments[0].plot.valToPos(3, 'y')", chart)
    over = chart.find_element("css selector", ".u-over")
    webdriver.ActionChains(browser).move_to_element_with_offset(over, 0, round(top - over.size["height"] / 2)).perform()
    assert legend(browser)[1:] == ["run03: 3"]
    assert complaints(browser) == []


def test_forty_curves_of_a_thousand_points_are_there(browser: Any, large: Path) -> None:
    open_page(browser, large)
    points = "return [...document.querySelectorAll('.chart')].flatMap(c => c.plot.data.slice(1)).map(y => y.length)"
    assert len([count for count in browser.execute_script(points) if count >= 1000]) == 40


def test_charts_are_built_after_the_page_is_read(browser: Any, large: Path) -> None:
    """So that the first paint has tables and samples, and waits for no chart."""
    open_page(browser, large)
    read, drawn = browser.execute_script(
        "return [performance.getEntriesByType('navigation')[0].domContentLoadedEventStart,"
        " performance.getEntriesByName('charts')[0].startTime]"
    )
    assert read < drawn, "by order, not by duration"


def test_everything_has_a_name_and_is_reached_by_keys(browser: Any, large: Path) -> None:
    open_page(browser, large)
    nameless = (
        "return [...document.querySelectorAll('img, .chart, .scroll, button, input')]"
        ".filter(e => !(e.alt || e.ariaLabel || e.labels?.length || e.textContent.trim())).length"
    )
    assert browser.execute_script(nameless) == 0
    stops = "return [...document.querySelectorAll('.chart, .scroll')].every(e => e.tabIndex === 0)"
    assert browser.execute_script(stops)
    levels = browser.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels) if after != 4), "no level is left out"


@pytest.mark.parametrize("width", [1440, 390])
def test_the_score_is_in_sight(browser: Any, tmp_path: Path, width: int) -> None:
    """The column that a reader looks for is the second one, and within the window."""
    scores = [folders.evaluation(10, 9.0)]
    paths = [folders.run(tmp_path / f"a_run_with_a_long_name_{n}", f"run.seed={n}", evaluations=scores) for n in "12"]
    assert main([*map(str, paths), "--out", str(tmp_path / "page.html")]) == 0
    open_page(browser, tmp_path / "page.html", width)
    cell = browser.find_element("css selector", "#overview tbody td")
    assert cell.text.split() == ["Fréchet", "distance", "9,", "floor", "1.5"]
    right = browser.execute_script("return arguments[0].getBoundingClientRect().right", cell)
    assert right <= width


def test_the_share_of_successes_is_in_sight_on_a_phone(browser: Any, tmp_path: Path) -> None:
    rate = {"value": "relativistic_pairing", "successes": 5, "runs": 6, "configs": 2, "interval": [0.25, 0.99]}
    trials = [folders.trial(0, {"penalty.r1.start": 0.1}, [folders.seed(0, modes=5.0)] * 3)]
    path = folders.sweep(tmp_path / "s", trials, success_by_setting={"penalty.r1.start,penalty.r2.start": [rate]})
    assert main([str(path)]) == 0
    open_page(browser, path / "report.html", 390)
    cell = next(one for one in browser.find_elements("css selector", ".overview td") if "83%" in one.text)
    right, lines = browser.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.right, box.height]", cell
    )
    assert right <= 390, lines


def test_names_break_at_their_joints(browser: Any, tmp_path: Path) -> None:
    """Not within a word, as a narrow column would have it."""
    paths = [
        folders.run(tmp_path / f"mnist_conditional_{name}", evaluations=[folders.evaluation(10, 9.0)]) for name in "ab"
    ]
    assert main([*map(str, paths), "--out", str(tmp_path / "page.html")]) == 0
    open_page(browser, tmp_path / "page.html", 390)
    cell = browser.find_element("css selector", "#overview tbody th")
    assert cell.text == "mnist_conditional_a"
    rows = browser.execute_script(
        "const range = document.createRange();"
        "const nodes = [...arguments[0].childNodes].filter(n => n.nodeType === 3);"
        "return nodes.map(n => { range.selectNodeContents(n); return range.getClientRects().length; })",
        cell,
    )
    assert rows == [1, 1, 1], "each part stands in one line"


def test_a_table_of_trials_is_printed_whole(browser: Any, tmp_path: Path) -> None:
    keys = ("loss.name", "optim.lr_g.start", "optim.lr_d.start", "penalty.r1.start,penalty.r2.start", "optim.betas_g.0")
    drawn = dict.fromkeys(keys, 0.0012345) | {"loss.name": "relativistic_pairing"}
    trials = [folders.trial(0, drawn, [folders.seed(0, modes=5.0)] * 3, reason="by the scheduler at 10,240 images")]
    path = folders.sweep(tmp_path / "s", trials)
    assert main([str(path)]) == 0
    open_page(browser, path / "report.html", 688)  # A4 within margins of 14 mm
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    width = browser.execute_script("return document.querySelector('.trials').getBoundingClientRect().right")
    assert width <= 688


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, large: Path, dark: bool) -> None:
    open_page(browser, large, 360, dark=dark)
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner == 360
    color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (color == "rgb(255, 255, 255)") != dark
    assert complaints(browser) == []


def test_it_prints_in_light_without_controls(browser: Any, large: Path) -> None:
    open_page(browser, large, dark=True)
    stroke = "return document.querySelector('.chart').plot.series[1].stroke()"
    dark = browser.execute_script(stroke)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert [browser.execute_script(shown, name) for name in ("nav", ".player", "button")] == ["none"] * 3
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.execute_script(stroke) != dark
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 50_000
