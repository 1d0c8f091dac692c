"""The page in a real browser: headless Chromium, where there is one, driven through chromedriver; no network."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganscale.report.__main__ import main
from ganscale.tracking.images import write_png
from tests.report import folders

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SECONDS = 2.0
BYTES = 5_000_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not BROWSER or not DRIVER:
        pytest.skip("no chromium with chromedriver on this machine")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}", *sandbox]
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
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


def opened(browser: Any, page: Path, width: int = 1280, *, dark: bool = False) -> float:
    """Open the page in a window of so many pixels; return the seconds until everything was drawn."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    calm = {"name": "prefers-reduced-motion", "value": "reduce"}  # no smooth scrolling away from a click
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, calm]})
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "true"
    return browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def test_a_large_page_opens_quickly_and_is_small(browser: Any, large: Path) -> None:
    assert large.stat().st_size < BYTES
    seconds = min(opened(browser, large) for _ in range(3))
    assert complaints(browser) == []
    assert browser.execute_script("return document.querySelectorAll('.plot path').length") == 40
    points = browser.execute_script("return document.querySelector('.plot path').getAttribute('d').split('L').length")
    assert points == 1000
    assert seconds < SECONDS


def test_the_slider_shows_the_pictures(browser: Any, large: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, large)
    slider = browser.find_element("css selector", "input[type=range]")
    image = browser.find_element("css selector", ".strips img")
    last = image.get_attribute("src")
    assert "98,000 images" in browser.find_element("css selector", ".strips figcaption").text
    slider.send_keys(Keys.HOME)
    assert browser.find_element("css selector", ".strips figcaption").text == "After 0 images"
    assert image.get_attribute("src") != last
    assert image.get_property("naturalWidth") > 100
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") == "2,000 images"
    assert "2,000 images" in image.get_attribute("alt")
    moments = browser.execute_script("return document.querySelector('.moment').getAttribute('x1')")
    browser.find_element("css selector", "button[aria-label=Later]").click()
    assert slider.get_attribute("aria-valuetext") == "4,000 images"
    assert browser.execute_script("return document.querySelector('.moment').getAttribute('x1')") > moments
    assert complaints(browser) == []


def test_pointer_and_keys_read_values(browser: Any, large: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(browser, large)
    plot = browser.find_element("css selector", ".plot")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    readout = browser.find_element("css selector", ".readout")
    assert not readout.is_displayed()
    ActionChains(browser).move_to_element(plot).perform()
    assert readout.is_displayed()
    lines = readout.text.splitlines()
    assert "images" in lines[0]
    assert [lines[1], lines[3]] == ["D", "G"]
    shown = (
        "return [...document.querySelectorAll('.cross')].filter(c => c.getAttribute('visibility') == 'visible').length"
    )
    assert browser.execute_script(shown) == 39, "the crosshair is in every chart"
    plot.send_keys(Keys.END)
    assert readout.text.startswith("100,000 images")
    plot.send_keys(Keys.ARROW_LEFT)
    assert readout.text.startswith("99,900 images")
    plot.send_keys(Keys.ESCAPE)
    assert not readout.is_displayed()
    assert complaints(browser) == []


def test_runs_are_hidden_and_axes_become_logarithmic(browser: Any, tmp_path: Path) -> None:
    rows = [{"images": i, "loss_d": 10.0**i} for i in range(1, 6)]
    paths = [folders.run(tmp_path / name, rows=rows, pictures=[0, 5]) for name in ("a<b>", "c&d")]
    assert main([*map(str, paths), "--out", str(tmp_path / "page.html")]) == 0
    opened(browser, tmp_path / "page.html")
    assert [e.text for e in browser.find_elements("css selector", "#samples .legend label")] == ["a<b>", "c&d"]
    count = "return document.querySelectorAll('.plot path').length"
    assert browser.execute_script(count) == 2
    browser.find_element("css selector", "#samples .legend input").click()
    assert browser.execute_script(count) == 1
    figures = browser.find_elements("css selector", ".strips figure")
    assert [figure.is_displayed() for figure in figures] == [False, True]
    button = browser.find_element("css selector", ".chart button")
    path = "return document.querySelector('.plot path').getAttribute('d')"
    before = browser.execute_script(path)
    assert button.get_attribute("aria-pressed") == "true", "five powers of ten start out logarithmic"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert browser.execute_script(path) != before
    assert complaints(browser) == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, large: Path, dark: bool) -> None:
    opened(browser, large, 360, dark=dark)
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner == 360
    color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (color == "rgb(255, 255, 255)") != dark
    assert complaints(browser) == []


def test_it_prints_in_light_without_controls(browser: Any, large: Path) -> None:
    opened(browser, large, dark=True)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert [browser.execute_script(shown, name) for name in ("nav", ".player", "button")] == ["none"] * 3
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 50_000
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
