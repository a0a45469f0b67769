"""The monitor in a real browser: no text of a run is markup, and no other site starts its games."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mario_runs import printable
from mario_status import find_runs
from tests.test_hostile_runs import BAD_LINES, NAMES
from tests.test_monitor import CHROMIUM, healthy, process, wait_for, write_rows

MARKUP = "<img src=x onerror=alert(2)><script>alert(3)</script>"
ELSEWHERE = "http://elsewhere.example/"
ATTACK = """
<img src="{here}/live/healthy">
<iframe src="{here}/"></iframe>
<script>
fetch("{here}/live/healthy", {{method: "POST", mode: "no-cors"}});
fetch("{here}/live/healthy", {{mode: "no-cors"}});
</script>
"""


@pytest.fixture
def hostile_root(tmp_path: Path, tiny_run: Path) -> Path:
    """Runs whose names, configs and metrics attack the page, and one that is healthy."""
    root = tmp_path / "runs"
    shutil.copytree(tiny_run, root / "healthy")
    for name in NAMES:
        with contextlib.suppress(OSError):
            shutil.copytree(tiny_run, root / name)
    for number, line in enumerate(BAD_LINES):
        write_rows(root / f"bad_{number}", [healthy(100)])
        with (root / f"bad_{number}" / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    write_rows(root / "marked", [healthy(100)])
    config = f'{{"agent": "{MARKUP}", "env": {{"stages": "{MARKUP}"}}}}'
    (root / "marked" / "train_config.json").write_text(config)
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "metrics.jsonl")
    return root


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve a root's runs; yields the page's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags: list[str | Path] = ["--runs-root", root, "--port", str(port)]
    with process("auto_update_mario_monitor.py", *flags) as server:
        assert server.stdout
        assert f"http://127.0.0.1:{port} shows" in server.stdout.readline()
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here (Debian: apt-get install chromium)")
def test_hostile_runs_are_text_in_a_browser_and_no_other_site_starts_their_games(
    hostile_root: Path,
) -> None:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install .[dev]"
    )
    with (
        served(hostile_root) as here,
        sync_api.sync_playwright() as playwright,
        contextlib.closing(
            playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        ) as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(120_000)
        executed: list[str] = []
        page.on("pageerror", lambda error: executed.append(str(error)))

        def refuse(dialog: Any) -> None:
            executed.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", refuse)

        def opened(url: str) -> Callable[[], bool]:
            def attempt() -> bool:
                with contextlib.suppress(sync_api.Error):
                    page.goto(url, wait_until="domcontentloaded")
                    return True
                return False

            return attempt

        def shows(text: str) -> Callable[[], bool]:
            return lambda: text in page.locator("body").inner_text()

        for name in map(printable, find_runs(hostile_root)):
            wait_for(opened(f"{here}/?run={quote(name, safe='')}"))
            wait_for(shows(name.split("\n")[0]))
            assert executed == [], name
            harmful = "document.querySelectorAll('[onerror], [onload], img[src=x]').length"
            assert page.evaluate(harmful) == 0, name
        wait_for(opened(f"{here}/?run=healthy&tab=live"))
        wait_for(shows("healthy"))
        screen = page.locator("#live-screen")
        assert wait_for(lambda: screen.evaluate("image => image.naturalWidth")) > 0, "it plays"
        # A page elsewhere: neither its pictures nor its frames nor its scripts get an answer.
        attacker = browser.new_page()
        attacker.route(
            f"{ELSEWHERE}**",
            lambda route: route.fulfill(body=ATTACK.format(here=here), content_type="text/html"),
        )
        answers: list[int] = []

        def note(response: Any) -> None:
            if "/live/" in response.url:
                answers.append(response.status)

        def note_failure(request: Any) -> None:
            if "/live/" in request.url:
                answers.append(0)

        attacker.on("response", note)
        attacker.on("requestfailed", note_failure)
        attacker.goto(ELSEWHERE)
        for _ in range(100):
            attacker.wait_for_timeout(200)  # it hears nothing else meanwhile
            if len(answers) >= 3:
                break
        assert len(answers) >= 3
        assert set(answers) <= {0, 403, 405}, "refused by the page, or by the browser"
        assert not any(frame.url == f"{here}/" for frame in attacker.frames)
