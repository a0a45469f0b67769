"""The page in a real browser: overlaid runs, three widths, light and dark, keys, and no jumps."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from mario_monitor.board import Board
from mario_monitor.configs import group_of, recipe_of
from mario_monitor.facts import RunList, curves_content, evaluations_content, log_tail
from mario_monitor.server import make_app
from mario_status import RunReader
from tests.test_monitor import CHROMIUM, healthy, wait_for, write_rows

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install it")
in_browser = pytest.mark.skipif(
    not CHROMIUM, reason="no chromium here (Debian: apt-get install chromium)"
)
WIDTHS = (390, 820, 1440)
TABS = ("curves", "levels", "live", "config")


@pytest.fixture(scope="module")
def root(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: two that differ in their seed alone, and one with another learning rate."""
    root = tmp_path_factory.mktemp("page") / "runs"
    for name, seed, rate in (("a/seed0", 0, 1e-3), ("a/seed1", 1, 1e-3), ("b", 0, 5e-4)):
        shutil.copytree(tiny_run, root / name)
        path = root / name / "train_config.json"
        config = json.loads(path.read_text())
        config["run"]["seed"], config["ppo"]["learning_rate"] = seed, rate
        path.write_text(json.dumps(config))
        rows = [{**healthy(100 * i), "max_x": 100.0 * i + seed, "own/key": i} for i in range(1, 9)]
        write_rows(root / name, rows)
    (root / "b" / "trainer.log").write_text("begins\n10 %\r20 %\r90 %\nlast <b>words</b>\n")
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    """The page's address, served from this process."""
    board = Board(root)
    board.refresh()
    config = uvicorn.Config(make_app(board), log_level="warning", lifespan="off", ws="none")
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with (
        sync_api.sync_playwright() as playwright,
        contextlib.closing(
            playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        ) as browser,
    ):
        yield browser


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Open]:
    """Open the page with a query; what a script complains of fails the test."""
    errors: list[str] = []
    contexts = []

    def open_page(query: str = "", width: int = 1440, **options: Any) -> Any:
        viewport = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/{query}")
        page.locator("#runs li").first.wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def values(page: Any, key: str) -> list[str]:
    """Return the newest values that stand beside a chart's title, one a line."""
    page.locator(f'[data-metric="{key}"] .values b').first.wait_for(state="attached")
    found: list[str] = page.locator(f'[data-metric="{key}"] .values b').all_inner_texts()
    return found


def until(page: Any, script: str) -> None:
    """Wait until a script is true; the page's own policy forbids `wait_for_function` to."""
    wait_for(lambda: page.evaluate(script))


BOTH = "?run=a/seed0&run=a/seed1"


@in_browser
def test_ticked_runs_share_the_charts_and_seeds_become_a_group(opened: Open) -> None:
    page = opened("?run=a/seed0")
    assert values(page, "max_x") == ["800"]
    page.get_by_label("Overlay a/seed1").check()
    until(page, "document.querySelectorAll('[data-metric=max_x] .values b').length == 2")
    assert values(page, "max_x") == ["800", "801"]
    assert "run=a%2Fseed0&run=a%2Fseed1" in page.url, "a link shows the same"
    page.get_by_label("Group seeds").check()
    until(page, "document.querySelectorAll('[data-metric=max_x] .values b').length == 1")
    assert values(page, "max_x") == ["801"], "800.5"
    page.get_by_role("button", name="b", exact=True).click()
    until(page, "document.querySelectorAll('#runs li.on').length == 1")


@in_browser
def test_evaluations_stand_above_in_both_modes_and_the_largest(opened: Open) -> None:
    page = opened("?run=b")
    page.locator("#evaluations .values b").first.wait_for(state="attached")
    assert page.locator("#evaluations .values b").count() == 2, "argmax and sampled"
    height = "n => n.querySelector('.plot').clientHeight * n.querySelector('.plot').clientWidth"
    large = page.locator("#evaluations .chart").evaluate(height)
    others = [chart.evaluate(height) for chart in page.locator("#charts .chart").all()]
    assert others
    assert large > max(others)


@in_browser
def test_every_logged_key_is_drawn_on_demand_and_stays_in_the_address(opened: Open) -> None:
    page = opened("?run=b")
    page.get_by_text("Every logged key").click()
    page.locator("#key-search").fill("own")
    page.locator("#keys").get_by_text("own/key").click()
    assert values(page, "own/key") == ["8"]
    again = opened(page.url[page.url.index("?") :])
    assert values(again, "own/key") == ["8"]
    again.get_by_label("Take own/key away").click()
    again.locator('[data-metric="own/key"]').wait_for(state="detached")


@in_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_no_view_is_wider_than_the_screen(opened: Open, width: int) -> None:
    for tab in TABS:
        page = opened(f"{BOTH}&run=b&tab={tab}", width)
        page.locator(f"#{tab}").wait_for()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        page.close()


@in_browser
def test_charts_fill_a_phone_and_stand_beside_each_other_on_a_desktop(opened: Open) -> None:
    place = "n => [n.getBoundingClientRect().top, n.getBoundingClientRect().width]"
    for width, is_beside in ((390, False), (1440, True)):
        page = opened(BOTH, width)
        values(page, "max_x")
        first, second = (
            chart.evaluate(place) for chart in page.locator("#charts .chart").all()[:2]
        )
        assert (first[0] == second[0]) == is_beside
        assert is_beside or first[1] > 0.9 * width


@in_browser
def test_colours_follow_the_system_and_paper_is_white(opened: Open) -> None:
    color = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(BOTH, color_scheme=scheme) for scheme in ("light", "dark"))
    assert light.evaluate(color) != dark.evaluate(color)
    dark.emulate_media(media="print")
    assert dark.evaluate(color) == "rgb(255, 255, 255)"
    assert not dark.locator("#side").is_visible()
    assert dark.locator('[data-metric="max_x"]').is_visible()


@in_browser
def test_nothing_moves_when_new_lines_come(opened: Open, root: Path) -> None:
    page = opened("?run=b", 820)
    assert values(page, "max_x") == ["800"]
    page.evaluate("scrollTo(0, 500)")
    place = "n => n.getBoundingClientRect().top"
    before = page.locator('[data-metric="max_x"]').evaluate(place)
    handle = page.locator('[data-metric="max_x"] canvas').element_handle()
    write_rows(root / "b", [{**healthy(900), "max_x": 900.0}], mode="a")
    until(page, "document.querySelector('[data-metric=max_x] .values b').textContent == '900'")
    assert page.locator('[data-metric="max_x"]').evaluate(place) == before
    assert handle.evaluate("n => n.isConnected"), "the chart is not built anew"


@in_browser
def test_a_zoom_is_that_of_all_charts_and_a_double_click_ends_it(opened: Open) -> None:
    page = opened("?run=a/seed0")
    values(page, "max_x")
    over = page.locator('[data-metric="max_x"] .u-over').bounding_box()
    y = over["y"] + over["height"] / 2
    page.mouse.move(over["x"] + 0.25 * over["width"], y)
    page.mouse.down()
    page.mouse.move(over["x"] + 0.75 * over["width"], y, steps=4)
    page.mouse.up()
    page.locator("#unzoom").wait_for()
    module = "import('/page/state.js').then(m => m.state.zoom)"
    low, high = page.evaluate(module)
    assert 100 < low < high < 800
    page.locator('[data-metric="entropy"] .u-over').dblclick()
    page.locator("#unzoom").wait_for(state="hidden")
    assert page.evaluate(module) is None


@in_browser
def test_the_crosshair_says_the_values_of_all_runs(opened: Open) -> None:
    page = opened(BOTH)
    values(page, "max_x")
    page.locator('[data-metric="max_x"] .u-over').hover()
    tip = page.locator('[data-metric="max_x"] .tip')
    tip.wait_for()
    assert {"a/seed0", "a/seed1"} <= set(tip.locator("span").all_inner_texts())
    assert "step" in tip.inner_text()


@in_browser
def test_the_config_tab_says_what_differs_and_shows_a_log_as_text(opened: Open) -> None:
    page = opened("?run=a/seed0&run=b&tab=config")
    row = page.locator("#config-table tr", has_text="ppo.learning_rate").first
    row.wait_for()
    recipe = recipe_of("ppo")["ppo.learning_rate"]
    assert row.locator("td").all_inner_texts() == [recipe, "0.001", "0.0005"]
    assert not page.locator("#config-table tr", has_text="ppo.clip_range").count(), "as the recipe"
    page.get_by_label("Every flag").check()
    page.locator("#config-table tr", has_text="ppo.clip_range").wait_for()
    texts = page.locator("#config-runs pre").all_inner_texts()
    assert texts == ["begins\n90 %\nlast <b>words</b>"]
    assert "python" in page.locator("#config-runs dd").first.inner_text()


@in_browser
def test_the_keyboard_reaches_everything(opened: Open) -> None:
    page = opened("?run=b")
    values(page, "max_x")
    for number, tab in enumerate(TABS, 1):
        page.keyboard.press(str(number))
        page.locator(f"#{tab}").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("g")
    assert page.locator("#grouped").is_checked()
    page.keyboard.press("x")
    assert page.locator("#x").input_value() == "minutes"
    page.keyboard.press("/")
    page.keyboard.type("seed1")
    assert page.locator("#runs li:visible").count() == 1
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#runs li.on').length == 2")  # its group
    page.keyboard.press("?")
    page.locator("#help").wait_for()


@in_browser
def test_smoothing_and_bands_are_what_they_say(opened: Open) -> None:
    page = opened()
    found = page.evaluate("""async () => {
        const { band, measured, smoothed } = await import('/page/numbers.js');
        return {
            smooth: smoothed([4, null, 0, 0], 0.5),
            same: smoothed([1, 2], 0),
            line: measured([1, 2, 2, 3], [5, 6, 7, null]),
            band: band([{ x: [0, 2], y: [0, 2] }, { x: [0, 1, 2, 3], y: [2, 2, 2, 9] }]),
        };
    }""")
    assert found["smooth"] == [4, None, pytest.approx(4 / 3), pytest.approx(4 / 7)]
    assert found["same"] == [1, 2]
    assert found["line"] == {"x": [1, 2], "y": [5, 7]}
    band = found["band"]
    assert (band["x"][0], band["x"][-1]) == (0, 2), "where both have come to"
    assert (band["mean"][0], band["low"][0], band["high"][0]) == (1, 0, 2)
    assert (band["mean"][-1], band["low"][-1], band["high"][-1]) == (2, 2, 2)


@in_browser
def test_a_script_in_the_page_does_not_run(opened: Open) -> None:
    page = opened()
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
    }""")
    assert page.evaluate("window.ran") is None


# --------------------------------------------------------------------------------------------
# What it is told
# --------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_alone_are_a_group(root: Path) -> None:
    board = Board(root)
    board.refresh()
    groups = {run["name"]: run["group"] for run in RunList(board).content()["runs"]}
    assert groups["a/seed0"] == groups["a/seed1"] != groups["b"]
    assert group_of({}) != group_of({"ppo": {"gamma": 0.9}})


def test_a_run_of_which_nothing_is_new_is_told_as_before(root: Path) -> None:
    board = Board(root)
    board.refresh()
    listed = RunList(board)
    before = {run["name"]: run for run in listed.content()["runs"]}
    write_rows(root / "a" / "seed1", [healthy(5000)], mode="a")
    board._next = 0.0
    board.refresh()
    after = {run["name"]: run for run in listed.content()["runs"]}
    assert after["a/seed0"] is before["a/seed0"]
    assert after["a/seed1"]["version"] != before["a/seed1"]["version"]
    assert after["a/seed1"]["step"] == 5000


def test_curves_are_the_means_of_what_was_measured(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": i, "wall_s": 60.0 * i, "max_x": i} for i in range(1200)]
    rows[1] = {"step": 1, "wall_s": 60.0}
    rows[2] = {"step": 2, "wall_s": 120.0, "max_x": 1.7e308}
    rows[3] = {"step": 3, "wall_s": 180.0, "max_x": 1.7e308}
    write_rows(tmp_path, rows)
    reader = RunReader(tmp_path)
    reader.status()
    found = curves_content(reader, ["max_x", "not/there"])
    assert found["keys"] == ["max_x", "wall_s"]
    assert len(found["steps"]) == 600
    assert found["steps"][-1] == 1199
    assert found["minutes"][-1] == 1199
    assert found["values"] == {"max_x": [0.0, 1.7e308, *[2 * i + 0.5 for i in range(2, 600)]]}
    json.dumps(found, allow_nan=False)


def test_evaluations_say_their_intervals_and_the_kept_step(root: Path) -> None:
    reader = RunReader(root / "b")
    reader.status()
    found = evaluations_content(reader)
    best = reader.best()
    assert best
    assert found["kept"] == best.step
    assert [point["mode"] for point in found["points"]] == ["argmax", "sampled"] * 2
    exact, sample = found["points"][:2]
    assert exact["low"] == exact["high"] == exact["clear_rate"]
    assert sample["low"] <= sample["clear_rate"] < sample["high"]


def test_a_log_that_leads_out_of_the_run_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    write_rows(tmp_path / "run", [healthy(1)])
    (tmp_path / "run" / "trainer.log").symlink_to(tmp_path / "secret")
    assert log_tail(RunReader(tmp_path / "run")) == []
