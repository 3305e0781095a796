"""The tab in a real browser, inside a real TensorBoard."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import IO

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from tab_runs import stats
from torch.utils.tensorboard import SummaryWriter

from lightning_gradguard.collect.layers import Layers
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import KEPT, UNDONE, Finding, Incident, StepReport, Trial, TrialEvent
from lightning_gradguard.record.report import Report
from lightning_gradguard.record.step_format import FOLDER
from lightning_gradguard.record.step_log import Recorder
from lightning_gradguard.show.html_report import write_html
from lightning_gradguard.tensorboard_plugin.summary import RunWriter

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs `chromium` and `chromedriver` on the PATH"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,720"
)
CELLS = ("cells", "cells_2", "cells_10")  # runs of another logger
PROBE = "<img src=x onerror=window.hacked=1>"
IDLE = "return document.querySelector('main')?.getAttribute('aria-busy') === 'false'"
RANGES = "return [...document.querySelectorAll('.plot')].map((plot) => plot.layout.xaxis.range)"


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """Starts a TensorBoard on a free port and returns its address; all are stopped at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(logdir: Path) -> str:
        command = [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            str(logdir),
            "--port",
            "0",
            "--host",
            "127.0.0.1",
        ]
        process = subprocess.Popen([*command, "--reload_interval", "1"], stderr=subprocess.PIPE, text=True)
        running.append(process)
        found: Queue[str] = Queue()

        def read(stderr: IO[str]) -> None:  # to the end, so that the pipe never fills
            with stderr:
                for line in stderr:
                    if match := re.search(r"http://\S+:\d+/", line):
                        found.put(match[0])

        threading.Thread(target=read, args=(process.stderr,), daemon=True).start()
        return found.get(timeout=60)

    yield start
    for process in running:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield chrome
    chrome.quit()


class Tab:
    """The tab in the browser, and what a user does with it."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address = driver, address
        driver.get_log("browser")
        self.open(f"{address}?darkMode=false#gradguard")

    def open(self, link: str) -> None:
        """Opens a link to the tab."""
        driver = self.driver
        driver.get("about:blank")
        driver.get(link)
        frame = self.until(lambda: driver.find_element(By.CSS_SELECTOR, "iframe[src*='name=gradguard']"))
        driver.switch_to.frame(frame)
        self.until(lambda: driver.execute_script(IDLE) or self.texts(".message h2"))

    def until(self, condition: Callable[[], object]):
        """Waits until a condition is true and returns its value."""
        return WebDriverWait(self.driver, 15, 0.1, ignored_exceptions=[Exception]).until(lambda _: condition())

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def choose(self, *runs: str) -> None:
        for row in self.driver.find_elements(By.CSS_SELECTOR, ".run"):
            box, name = row.find_element(By.TAG_NAME, "input"), row.find_element(By.CSS_SELECTOR, ".name").text
            if box.is_selected() != (name in runs):
                box.click()
                self.driver.switch_to.default_content()  # the list has been rebuilt
                self.driver.switch_to.frame(self.driver.find_element(By.CSS_SELECTOR, "iframe[src*='gradguard']"))
                return self.choose(*runs)
        return self.until(lambda: self.texts(".figure h2") == sorted(runs) and self.driver.execute_script(IDLE))

    def heatmap(self, figure: int = 0) -> dict:
        """Rows, columns and labels of a heatmap as drawn."""
        script = """
            const plot = document.querySelectorAll('.plot')[arguments[0]], [{z}] = plot.calcdata[0];
            const labels = [...plot.layout.yaxis.ticktext];
            return {type: plot.data[0].type, rows: z.length, columns: z[0].length, labels};
        """
        return self.driver.execute_script(script, figure)

    def hover(self, row: int, step: float) -> list[str]:
        """The words that are shown at a cell of the heatmap."""
        script = """
            const plot = document.querySelector('.plot'), area = plot.querySelector('.nsewdrag');
            const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
            const clientX = box.x + xaxis._offset + xaxis.d2p(arguments[1]);
            const clientY = box.y + yaxis._offset + yaxis.r2p(arguments[0]);
            area.dispatchEvent(new MouseEvent('mousemove', {clientX, clientY, bubbles: true}));
        """
        self.driver.execute_script(script, row, step)
        return self.until(lambda: self.texts(".hoverlayer .hovertext"))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def address(trained: Path, tmp_path_factory: pytest.TempPathFactory, serve: Callable[[Path], str]) -> str:
    """A TensorBoard with two runs of a real Trainer and one with hostile names."""
    root = tmp_path_factory.mktemp("logs")
    for run in ("guarded", "unguarded"):
        shutil.copytree(trained / run, root / run)
    with SummaryWriter(root / "nasty") as board:
        writer = RunWriter(board)
        for x in range(3):
            writer.step(StepReport(stats=stats(x, np.ones(2), (PROBE, "ok"))), x)
        trials = (Trial("other", UNDONE, math.inf), Trial(PROBE, KEPT, 0.5))
        event = TrialEvent(KEPT, "exploding", PROBE, trials=trials)
        incident = Incident.start(Finding("exploding", 1, (PROBE,), 9.0, 3.0, PROBE)).tried(event)
        writer.incident(incident, 1)
        writer.close(Report(3, (incident,), verdict=PROBE), 3)
    for run in CELLS:
        record_cells(root / run)
    return serve(root)


def record_cells(run: Path) -> None:
    """A run of another logger: a layer that is NaN throughout, one that is zero in the end, and a healthy one."""
    names = ("encoder.blocks.0.attention.query", "encoder.blocks.0.attention.key", "encoder.blocks.0.dead", "head")
    layers = Layers(names, np.full(4, 16), np.ones(4, bool), {names[0]: "Linear", "head": "Conv2d"})
    recorder = Recorder(run / FOLDER)
    for x in range(10):
        norms = np.array([0.025, math.nan, 0.0 if x >= 5 else 1.0, 1234.0])
        recorder.add(StepReport(stats=GradStats(x, layers, norms, loss=0.5, lr=0.1)))
    recorder.close()


@pytest.fixture
def tab(driver: webdriver.Chrome, address: str) -> Tab:
    tab = Tab(driver, address)
    tab.until(lambda: len(tab.texts(".run")) == 6 or driver.refresh() or Tab.__init__(tab, driver, address))
    return tab


def test_it_draws_the_recorded_run(tab):
    tab.choose("guarded")
    heatmap = tab.heatmap()
    assert (heatmap["type"], heatmap["rows"], heatmap["columns"]) == ("heatmap", 3, 160)
    assert heatmap["labels"] == ["encoder.0", "encoder.2", "head"]
    assert tab.texts(".state") == ["DEGRADED"]
    assert tab.errors() == []


def test_it_opens_on_the_newest_run_that_needs_attention(tab):
    assert tab.texts(".figure h2") == ["nasty"]
    assert tab.texts(".run .name") == ["cells", "cells_2", "cells_10", "guarded", "nasty", "unguarded"]


@pytest.mark.parametrize(
    ("pattern", "verdict", "runs"),
    [
        ("^G.*ed$", "", ["guarded"]), ("(", "", ["cells", "cells_2", "cells_10", "guarded", "nasty", "unguarded"]),
        ("", "attention", ["guarded", "nasty", "unguarded"]), ("s_", "healthy", ["cells_2", "cells_10"]), ("x", "", []),
    ],
)  # fmt: skip
def test_runs_are_filtered_by_name_and_verdict(tab, pattern, verdict, runs):
    tab.driver.find_element(By.CSS_SELECTOR, "#filter_run").send_keys(pattern)
    tab.driver.find_element(By.CSS_SELECTOR, f"#filter_verdict option[value='{verdict}']").click()
    assert tab.texts(".run .name") == runs
    assert tab.texts("#runs p") == ([] if runs else ["No run matches."])


def test_more_than_four_runs_are_shown_page_by_page(tab):
    for name in ("cells", "cells_2", "cells_10", "guarded"):
        tab.driver.find_element(By.XPATH, f"//label[.//span[text()='{name}']]/input").click()
    tab.until(lambda: tab.texts(".figure h2") == ["cells", "cells_2", "cells_10", "guarded"])
    assert tab.texts("#pages span") == ["runs 1 to 4 of 5"]
    lefts = {figure.location["x"] for figure in tab.driver.find_elements(By.CSS_SELECTOR, ".figure")}
    assert len(lefts) == 2  # two columns, so that no figure is too narrow for its titles
    tab.driver.find_elements(By.CSS_SELECTOR, "#pages button")[1].click()
    tab.until(lambda: tab.texts(".figure h2") == ["nasty"])
    assert tab.errors() == []


def test_incidents_are_counted_by_kind_and_filtered(tab):
    tab.choose("guarded", "nasty")
    assert [text.split()[1] for text in tab.texts(".kind summary strong")] == ["exploding", "loss_spike"]
    assert tab.texts(".kind .count") == ["1", "1"]
    assert tab.texts("#filter_outcome option") == ["any outcome (2)", "open (1)", "resolved (1)"]
    for name, value, left in (("kind", "loss_spike", 1), ("kind", "", 2), ("outcome", "open", 1), ("outcome", "", 2)):
        tab.driver.find_element(By.CSS_SELECTOR, f"#filter_{name} option[value='{value}']").click()
        assert len(tab.texts(".incident")) == left
    tab.driver.find_element(By.CSS_SELECTOR, "#filter_layer").send_keys("<img")
    assert [text.split()[1] for text in tab.texts(".kind summary strong")] == ["exploding"]


def test_the_keyboard_walks_through_the_incidents_and_selects_step_and_layer(tab):
    tab.choose("guarded", "nasty")
    body = tab.driver.find_element(By.TAG_NAME, "body")
    chosen = ".incident[aria-pressed='true'] strong"
    for key, step in (("n", "step 1 of nasty"), ("n", "of guarded"), ("n", "of nasty"), ("p", "of guarded")):
        body.send_keys(key)
        assert tab.until(lambda step=step: [text for text in tab.texts(chosen) if text.endswith(step)])
    body.send_keys("n")
    layer = tab.driver.find_element(By.CSS_SELECTOR, "#layer")
    tab.until(lambda: layer.get_attribute("value") == PROBE)
    body.send_keys(Keys.ESCAPE)
    tab.until(lambda: tab.texts(chosen) == [] and layer.get_attribute("value") == "")


def test_the_keys_work_before_the_first_click(tab):
    tab.driver.find_element(By.TAG_NAME, "body").send_keys("n")
    tab.until(lambda: tab.texts(".incident[aria-pressed='true']"))


def test_a_link_shows_the_same_runs_incident_and_layer_again(tab):
    tab.choose("guarded", "nasty")
    tab.driver.find_element(By.CSS_SELECTOR, "#full").click()
    tab.driver.find_element(By.TAG_NAME, "body").send_keys("n")
    tab.until(lambda: tab.texts(".incident[aria-pressed='true']") and tab.driver.execute_script(IDLE))
    before, link = map(tab.driver.execute_script, (RANGES, "return window.parent.location.href"))
    tab.open(link)
    tab.until(lambda: len(tab.texts(".figure h2")) == 2 and tab.driver.execute_script(IDLE))
    assert tab.texts(".figure h2") == ["guarded", "nasty"]
    assert tab.driver.execute_script(RANGES) == before
    assert tab.texts(".incident[aria-pressed='true'] strong") == ["step 1 of nasty"]
    assert tab.driver.find_element(By.CSS_SELECTOR, "#layer").get_attribute("value") == PROBE
    assert tab.driver.find_element(By.CSS_SELECTOR, "#full").get_attribute("aria-pressed") == "true"


def test_on_a_phone_the_side_bar_folds_and_nothing_is_cut_off(driver, address):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        tab = Tab(driver, address)
        tab.until(lambda: tab.texts(".figure h2"))
        side = driver.find_element(By.TAG_NAME, "aside")
        assert not side.is_displayed()
        driver.find_element(By.CSS_SELECTOR, "#side").click()
        assert side.is_displayed()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
        assert driver.execute_script("return document.querySelector('.plot').clientWidth") > 340
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(
    ("row", "step", "words"),
    [
        (0, 2, ["encoder.blocks.0.attention.query (Linear)", "step 2", "gradient norm 0.025 (L2 norm)"]),
        (1, 2, ["encoder.blocks.0.attention.key", "step 2", "NaN or inf"]),
        (2, 7, ["encoder.blocks.0.dead", "step 7", "gradient norm 0 (L2 norm)"]),
        (3, 7, ["head (Conv2d)", "step 7", "gradient norm 1234 (L2 norm)"]),
    ],
)
def test_hovering_tells_layer_module_step_and_value(tab, row, step, words):
    tab.choose("cells")
    assert tab.hover(row, step) == ["".join(words)]
    assert tab.errors() == []


def test_every_value_is_shown_on_request(tab):
    tab.choose("unguarded")
    loss = "const {_fullLayout: l} = document.querySelector('.plot'); return l.yaxis4.range[1]"
    before = tab.driver.execute_script(loss)
    tab.driver.find_element(By.CSS_SELECTOR, "#full").click()
    assert tab.until(lambda: tab.driver.execute_script(loss) > 100 * before)


def test_the_chosen_incident_shows_what_was_tried_beside_the_run(tab):
    tab.choose("nasty")
    assert tab.texts(".trials") == []
    tab.driver.find_element(By.CSS_SELECTOR, ".incident").click()
    tab.until(lambda: tab.texts(".trials td"))
    assert tab.texts(".trials td") == [PROBE, "0.500", "kept", "other", "inf", "undone"]
    assert tab.driver.execute_script("return window.hacked") is None


def test_clicking_an_incident_zooms_every_panel_and_back(tab):
    tab.choose("guarded")
    (whole,) = tab.driver.execute_script(RANGES)
    incident = tab.driver.find_element(By.CSS_SELECTOR, ".incident")
    first = int(re.search(r"steps? (\d+)", incident.text)[1])
    incident.send_keys(Keys.ENTER)  # reachable by keyboard
    low, high = tab.until(
        lambda: tab.driver.execute_script(RANGES)[0] != whole and tab.driver.execute_script(RANGES)[0]
    )
    assert whole[0] < low < first < high < whole[1]
    shared = "return [...new Set(document.querySelector('.plot').data.map((trace) => trace.xaxis ?? 'x'))]"
    assert tab.driver.execute_script(shared) == ["x"]
    tab.driver.find_element(By.CSS_SELECTOR, "#all").click()
    assert tab.until(lambda: tab.driver.execute_script(RANGES) == [whole])
    assert tab.errors() == []


def test_clicking_a_row_shows_its_curve(tab):
    tab.choose("guarded")
    plot = tab.driver.find_element(By.CSS_SELECTOR, ".plot .nsewdrag")
    webdriver.ActionChains(tab.driver).move_to_element(plot).click().perform()
    titles = tab.until(lambda: [t for t in tab.texts(".annotation-text") if t.startswith("gradient norm of ")])
    assert titles == ["gradient norm of encoder.2"]
    assert tab.driver.find_element(By.CSS_SELECTOR, "#layer").get_attribute("value") == "encoder.2"
    assert tab.errors() == []


def test_two_runs_compare_on_the_same_axes(tab):
    tab.choose("guarded", "unguarded")
    left, right = tab.driver.execute_script(RANGES)
    assert left == right
    tops = [figure.location["y"] for figure in tab.driver.find_elements(By.CSS_SELECTOR, ".figure")]
    assert tops[0] == tops[1]  # side by side
    assert tab.errors() == []


def test_modules_fold_and_open(tab):
    tab.choose("guarded")
    select = tab.driver.find_element(By.CSS_SELECTOR, "#depth")
    select.find_element(By.CSS_SELECTOR, "option[value='1']").click()
    tab.until(lambda: tab.heatmap()["labels"] == ["encoder (2)", "head"])
    area = tab.driver.find_element(By.CSS_SELECTOR, ".plot .nsewdrag")
    webdriver.ActionChains(tab.driver).move_to_element_with_offset(area, 0, -40).click().perform()
    tab.until(lambda: tab.heatmap()["labels"] == ["0", "2"])
    assert tab.texts("#path") == ["all layers\nencoder"]
    assert tab.texts(".annotation-text")[0].startswith("gradient norm per layer in encoder; input at the top")
    assert tab.errors() == []


def test_the_search_suggests_layers_and_modules_and_says_when_nothing_matches(tab):
    tab.choose("guarded")
    tab.until(lambda: len(tab.driver.find_elements(By.CSS_SELECTOR, "#rows option")) == 4)
    suggested = "return [...document.querySelectorAll('#rows option')].map((option) => option.value)"
    assert tab.driver.execute_script(suggested) == ["encoder", "encoder.0", "encoder.2", "head"]
    layer = tab.driver.find_element(By.CSS_SELECTOR, "#layer")
    for typed, message in (("decoder", "No layer matches."), ("ENC", "3 layers match; choose one")):
        layer.send_keys(Keys.CONTROL, "a", Keys.NULL, typed, Keys.ENTER)
        assert tab.until(lambda message=message: tab.texts("#found") == [message])
    layer.send_keys(Keys.CONTROL, "a", Keys.NULL, "R.2", Keys.ENTER)
    tab.until(lambda: any(text.startswith("gradient norm of encoder.2") for text in tab.texts(".annotation-text")))
    assert tab.texts("#found") == [""]
    layer.send_keys(Keys.CONTROL, "a", Keys.NULL, "encoder", Keys.ENTER)
    tab.until(lambda: tab.heatmap()["labels"] == ["0", "2"])
    tab.driver.find_element(By.CSS_SELECTOR, "#path button").click()
    tab.until(lambda: tab.heatmap()["labels"] == ["encoder.0", "encoder.2", "head"])


def test_hovering_compares_all_runs_at_that_step(tab):
    tab.choose("cells", "guarded")
    tab.hover(0, 7)
    tab.until(lambda: tab.texts("#readout th")[0] == "step 7")
    rows = [row.split()[0] for row in tab.texts("#readout tr")[1:]]
    assert rows == ["cells", "guarded"]
    loss = tab.texts("#readout th").index("loss")
    assert tab.texts("#readout tr:nth-child(2) td")[loss] == "0.5"
    own, other = tab.driver.find_elements(By.CSS_SELECTOR, ".crosshair")
    assert (own.is_displayed(), other.is_displayed()) == (False, True)
    script = """
        const plot = document.querySelectorAll('.plot')[1], {xaxis} = plot._fullLayout;
        return plot.getBoundingClientRect().x + xaxis._offset + xaxis.d2p(7)
    """
    assert abs(other.rect["x"] - tab.driver.execute_script(script)) < 2
    assert tab.errors() == []


def test_a_help_panel_explains_what_is_shown(tab):
    tab.driver.find_element(By.CSS_SELECTOR, "#help_button").click()
    tab.until(lambda: "heatmap" in tab.texts("#help strong"))
    assert "depth slope" in tab.texts("#help strong")
    tab.driver.find_element(By.CSS_SELECTOR, "#help button").click()
    tab.until(lambda: not tab.texts("#help"))


def test_it_follows_the_dark_mode_of_tensorboard(tab):
    tab.choose("guarded")
    colors = (
        "return [getComputedStyle(document.body).backgroundColor, document.querySelector('.plot').layout.font.color]"
    )
    light = tab.driver.execute_script(colors)
    tab.driver.execute_script("window.parent.document.body.classList.add('dark-mode')")
    dark = tab.until(
        lambda: all(a != b for a, b in zip(light, tab.driver.execute_script(colors), strict=True)) and colors
    )
    assert sum(map(int, re.findall(r"\d+", tab.driver.execute_script(dark)[0]))) < 200
    assert tab.errors() == []


def test_hostile_names_are_shown_as_text(tab):
    tab.choose("nasty")
    assert PROBE in tab.texts(".incident .text")[0]
    assert PROBE in tab.texts(".headline")[0]
    tab.driver.find_element(By.CSS_SELECTOR, ".incident").click()
    tab.until(lambda: tab.driver.execute_script(IDLE))
    labels = tab.driver.execute_script(
        "return [...document.querySelectorAll('.yaxislayer-above .ytick, .ytick')].map((t) => t.textContent)"
    )
    assert any(label.startswith("<img") for label in labels)
    assert tab.driver.execute_script("return [window.hacked, window.parent.hacked]") == [None, None]
    assert tab.driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert tab.errors() == []


def test_an_error_of_the_backend_is_shown(tab):
    tab.driver.execute_script(
        "const real = window.fetch; window.fetch = (url) => real(String(url).replace('run=', 'run=gone-'));"
        "document.querySelector('#statistic').dispatchEvent(new Event('change'))"
    )
    assert tab.until(lambda: tab.texts(".message.error h2")) == ["GradGuard could not show the data"]
    assert "There is no GradGuard data in run" in tab.texts(".message.error p")[0]


def test_from_an_empty_log_directory_to_a_growing_run(driver, serve, tmp_path):
    tab = Tab(driver, serve(tmp_path))
    assert tab.texts(".message h2") == ["No runs with GradGuard data"]
    assert "callbacks=[GradGuard()]" in tab.texts(".message pre")[0]
    with SummaryWriter(tmp_path / "live") as board:
        writer = RunWriter(board)
        for target in (5, 12):
            for x in range(target - 5, target):
                writer.step(StepReport(stats=stats(x, np.ones(3))), x)
            board.flush()
            tab.until(lambda target=target: reloaded(tab) and tab.heatmap()["columns"] == {5: 5, 12: 10}[target])
    assert "not finished" in tab.texts(".headline")[0]
    assert tab.errors() == []


def reloaded(tab: Tab) -> bool:
    """Clicks TensorBoard's reload button; whether the tab has drawn a figure."""
    button = "app-header-reload button, button.reload-button"
    tab.driver.execute_script("window.parent.document.querySelector(arguments[0]).click()", button)
    return bool(tab.driver.execute_script("return document.querySelectorAll('.plot').length"))


def test_the_report_of_two_runs_draws_them_side_by_side(driver, trained, tmp_path):
    write_html([trained], tmp_path / "report.html")
    driver.get_log("browser")
    driver.get((tmp_path / "report.html").as_uri())
    drawn = "return [...document.querySelectorAll('.js-plotly-plot')].map((plot) => plot.getBoundingClientRect().y)"
    tops = WebDriverWait(driver, 15, 0.1).until(lambda _: len(found := driver.execute_script(drawn)) == 2 and found)
    assert tops[0] == tops[1]
    driver.find_element(By.CSS_SELECTOR, "button[data-from]").click()
    low, high = driver.execute_script("return document.querySelectorAll('.js-plotly-plot')[1].layout.xaxis.range")
    assert 0 < low < 80 < high < 160
    assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
