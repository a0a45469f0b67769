"""A web page of all runs: their state, live curves, where they die, the newest checkpoint playing.

    python auto_update_mario_monitor.py --runs-root runs --port 8080
    python auto_update_mario_monitor.py --runs-root runs --once --html report.html

It reads run folders and writes nothing into them. The page is for this machine only unless --host
says otherwise; it has no password.
"""

from __future__ import annotations

import dataclasses
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import cv2
import numpy as np
import pydantic
import torch
from fastapi import HTTPException, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from nicegui import app, ui
from nicegui import run as workers
from PIL import Image, ImageDraw
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastnes import warm_up
from mario_cli import UsageError, exit_code
from mario_config import in_process
from mario_game import STAGES, StageId
from mario_judge import protocol_config
from mario_policies import load_policy
from mario_report import (
    BIN_PX,
    CURVES,
    STATE_COLORS,
    Curve,
    best_clears,
    death_counts,
    describe_endings,
    endings,
    latest,
    level_picture,
    png,
    points,
    print_runs,
    rounded,
    stage_of,
    write_html,
)
from mario_rollout import game_fps, watch
from mario_runs import BadModelFile, duration, printable
from mario_status import RunReader, RunStatus, find_runs, newest_model
from mario_values import Checked, parse_flags
from mario_video import CAPTION_COLOR, CAPTION_FONT, with_caption

REFRESH_S = 2.0
REFRESH_SHARE = 0.05  # of a core, at most: beside a training a page of many runs refreshes less
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
MAX_LIVE = 4  # games played at once; each takes about a tenth of a core
ENDING_S = 1.5  # how long the last picture of an episode stays


@dataclasses.dataclass(frozen=True)
class MonitorFlags(Checked):
    """Which runs, where to show them."""

    run_dir: Path | None = None
    """Show this run alone."""
    runs_root: Path = Path("runs")
    """Show every run below this folder. No file outside it is ever read."""
    port: Annotated[int, pydantic.Field(ge=1, le=65535)] = 8080
    """The page is at http://127.0.0.1:<port>."""
    host: str = "127.0.0.1"
    """Address to listen at. 0.0.0.0 shows the page to the whole network, without a password."""
    once: bool = False
    """Print a table of the runs and end."""
    html: Path | None = None
    """With --once: write a page to this file instead, with the newest run in detail."""


class Board:
    """All runs below a root, by name; read again when someone looks, but not all the time."""

    def __init__(self, flags: MonitorFlags) -> None:
        self.only = flags.run_dir.resolve() if flags.run_dir else None
        self.root = self.only.parent if self.only else flags.runs_root
        self.readers: dict[str, RunReader] = {}
        self.statuses: list[RunStatus] = []  # the one that wrote last first
        self._next = 0.0
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read what is new, unless that was done a moment ago."""
        with self._lock:
            begun = time.monotonic()
            if begun < self._next:
                return
            found = {printable(self.only.name): self.only} if self.only else find_runs(self.root)
            self.readers = {
                name: self.readers.get(name) or RunReader(path, name)
                for name, path in found.items()
            }
            statuses = [reader.status() for reader in self.readers.values()]
            never = float("inf")
            self.statuses = sorted(
                statuses, key=lambda status: never if status.age_s is None else status.age_s
            )
            took_s = time.monotonic() - begun
            self._next = begun + max(REFRESH_S / 2, took_s / REFRESH_SHARE)

    def status(self, name: str) -> RunStatus | None:
        """Return a run's status as last read."""
        return next((status for status in self.statuses if status.name == name), None)

    def reader(self, name: str) -> RunReader:
        """Return the run of a name that a browser asks for: one of the list, or 404."""
        self.refresh()
        if name not in self.readers:
            raise HTTPException(404, "no such run")
        return self.readers[name]


# --------------------------------------------------------------------------------------------
# What is not text: the level, the preview, the game
# --------------------------------------------------------------------------------------------


class LiveGames:
    """Newest checkpoints playing, each for as long as someone watches."""

    def __init__(self, limit: int = MAX_LIVE) -> None:
        self._free = threading.Semaphore(limit)

    def stream(self, reader: RunReader) -> Iterator[bytes]:
        """Yield the parts of an endless multipart answer: JPEG pictures at the game's speed."""
        yield b"--frame\r\n"
        if not self._free.acquire(blocking=False):
            yield part(message_picture("too many games are being watched"))
            return
        try:
            yield part(message_picture("loading"))
            seed = int(time.time())
            while True:
                yield from self._episode(reader, seed)
                seed += 1
        finally:
            self._free.release()

    def _episode(self, reader: RunReader, seed: int) -> Iterator[bytes]:
        try:
            policy = load_policy(newest_model(reader.folder.path))
        except (BadModelFile, UsageError) as error:
            yield part(message_picture(str(error)))
            time.sleep(10)
            return
        config = protocol_config(in_process(policy.env_config), "noop")
        tick_s = 1 / game_fps(config)
        due = time.monotonic()
        for moment in watch(policy, config, seed):
            yield part(with_caption(moment))
            now = time.monotonic()
            due = max(due + (ENDING_S if moment.done else tick_s), now)
            time.sleep(due - now)


def part(picture: np.ndarray) -> bytes:
    """Return a picture as one part of a multipart/x-mixed-replace answer.

    The boundary comes behind it: a browser shows a picture when it knows that it is whole.
    """
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return b"Content-Type: image/jpeg\r\n\r\n" + content.tobytes() + b"\r\n--frame\r\n"


def message_picture(text: str) -> np.ndarray:
    """Return a dark picture that says something, uint8[512, 512, 3]."""
    picture = Image.new("RGB", (512, 512), CAPTION_COLOR)
    lines = "\n".join(textwrap.wrap(text, 48))
    ImageDraw.Draw(picture).text((24, 240), lines, "white", CAPTION_FONT)
    return np.asarray(picture)


def is_from_here(request: Request) -> bool:
    """Return whether this page asks, or a person; another site's page may not start games."""
    if site := request.headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = request.headers.get("origin") or request.headers.get("referer")
    return not origin or urlsplit(origin).netloc == request.headers.get("host")


class Guard:
    """Answers to this machine's names alone, and lets no other site frame the page.

    A page elsewhere must not reach this one through a name of its own (DNS rebinding), nor start
    its games by showing it in a frame.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        """Pass on to app what asks for one of the hosts; for any, if there are none."""
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self.hosts and host_of(scope) not in self.hosts:
            await PlainTextResponse("Invalid host header", 400)(scope, receive, send)
            return

        async def framed_by_none(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"x-frame-options", b"DENY"),
                    (b"content-security-policy", b"frame-ancestors 'none'"),
                ]
            await send(message)

        await self.app(scope, receive, framed_by_none)


def host_of(scope: Scope) -> str:
    """Return the name that a request asks for, without its port; empty if it is none."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def add_files(board: Board) -> None:
    """Serve the level's picture, the newest preview and the game of the runs on the board."""
    games = LiveGames()

    @app.get("/level/{world}-{stage}.png")
    def level(world: int, stage: int) -> Response:
        try:
            content = png(level_picture(StageId(world, stage)))
        except KeyError:
            raise HTTPException(404, "no such stage") from None
        return Response(content, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    @app.get("/preview/{name:path}")
    def preview(name: str) -> FileResponse:
        video = board.reader(name).newest_preview()
        if video is None or not video.resolve().is_relative_to(board.root.resolve()):
            raise HTTPException(404, "no preview yet")
        return FileResponse(video, media_type="video/mp4")

    @app.get("/live/{name:path}")
    def live(name: str, request: Request) -> StreamingResponse:
        if not is_from_here(request):
            raise HTTPException(403, "another site asks")
        return StreamingResponse(
            games.stream(board.reader(name)),
            media_type="multipart/x-mixed-replace; boundary=frame",
        )


# --------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------

CARD = "bg-slate-900 rounded-xl shadow-none no-wrap"
MUTED = "text-slate-400"
STEP_LABEL = "v => v >= 1e6 ? v / 1e6 + 'M' : v >= 1e3 ? v / 1e3 + 'k' : v"
AXIS: dict[str, Any] = {
    "axisLine": {"show": False},
    "axisTick": {"show": False},
    "axisLabel": {"color": "#94a3b8", "fontSize": 11},
    "splitLine": {"lineStyle": {"color": "#1e293b"}},
}
LIST_COLUMNS: list[dict[str, Any]] = [
    {"name": "state", "label": "State", "field": "state", "align": "left", "sortable": True},
    {"name": "name", "label": "Run", "field": "name", "align": "left", "sortable": True},
    {"name": "step", "label": "Steps", "field": "step", "sortable": True},
    {"name": "best", "label": "Best", "field": "best"},
]
STATE_CELL = """
<q-td :props="props"><span :style="{color: props.row.color}">&#9679;</span>
&nbsp;{{ props.value }}<q-tooltip v-if="props.row.why">{{ props.row.why }}</q-tooltip></q-td>
"""


def list_row(status: RunStatus) -> dict[str, Any]:
    """Return a run as the list shows it."""
    return {
        "name": status.name,
        "state": status.state,
        "color": STATE_COLORS[status.state],
        "why": status.remark,
        "step": f"{status.step:,}",
        "best": best_clears(status),
    }


class CurveCard:
    """One curve of a run, hidden for as long as there is nothing to draw."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        with ui.card().classes(f"{CARD} gap-0 p-3 curve-{curve.key}") as self.card:
            with ui.row().classes("w-full justify-between"):
                ui.label(curve.title).classes(MUTED)
                self.value = ui.label().classes("font-semibold tabular-nums")
            step_labels = {**AXIS["axisLabel"], ":formatter": STEP_LABEL, "showMaxLabel": False}
            share = {"min": 0, "max": 1, "interval": 0.5} if curve.key == "clear_rate" else {}
            self.chart = ui.echart(
                {
                    "animation": False,
                    "grid": {"left": 44, "right": 12, "top": 12, "bottom": 22},
                    "tooltip": {"trigger": "axis", "confine": True},
                    "xAxis": {
                        **{"type": "value", "min": 0, "max": "dataMax", "splitNumber": 3},
                        **{**AXIS, "axisLabel": step_labels, "splitLine": {"show": False}},
                    },
                    "yAxis": {"type": "value", "splitNumber": 3, **AXIS, **share},
                    "series": [
                        {
                            **{"type": "line", "showSymbol": False, "data": []},
                            **{"lineStyle": {"width": 1.5}, "itemStyle": {"color": "#38bdf8"}},
                        }
                    ],
                },
                renderer="svg",
            ).classes("w-full h-32")

    def update(self, rows: Sequence[dict[str, Any]]) -> None:
        found = points(rows, self.curve.key)
        self.card.set_visibility(bool(found))
        if found:
            self.value.set_text(rounded(found[-1][1], self.curve.digits))
            self.chart.options["series"][0]["data"] = found
            self.chart.update()


class RunPanel:
    """A run in detail. Built once for each run that is looked at, then kept up to date."""

    def __init__(self, board: Board, name: str) -> None:
        self.board, self.name = board, name
        self.seen_rows = -1
        self.seen_endings: Any = None
        self.seen_preview: Path | None = None
        with ui.row().classes("w-full items-center gap-3"):
            ui.label(name).classes("text-xl font-semibold")
            self.state = ui.badge().classes("run-state px-2 py-1")
            self.why = ui.label().classes(MUTED)
        self.findings = ui.column().classes("w-full gap-1")
        self.findings.set_visibility(False)
        with ui.row().classes("w-full gap-8"):
            self.tiles = {
                key: self._tile(key)
                for key in ("Steps", "To go", "Steps/s", "Clear rate", "Best evaluation", "Updated")
            }
        with ui.element("div").classes("w-full grid grid-cols-2 xl:grid-cols-4 gap-3"):
            self.curves = [CurveCard(curve) for curve in CURVES]
        self._build_level()
        with ui.row().classes("w-full gap-3 no-wrap items-stretch"):
            with ui.card().classes(f"{CARD} p-3 preview") as self.preview_card:
                self.preview_title = ui.label().classes(MUTED)
                self.video = ui.video("", autoplay=True, loop=True, muted=True)
                self.video.classes("w-96").style("image-rendering: pixelated")
            with ui.card().classes(f"{CARD} p-3 live") as self.live_card:
                with ui.row().classes("w-96 justify-between items-center"):
                    ui.label("Newest checkpoint, playing").classes(MUTED)
                    self.playing = ui.switch(value=True, on_change=self._switch_live)
                    self.playing.props("dense size=sm")
                self.live = ui.element("img").classes("w-96 aspect-square bg-black")
        self.preview_card.set_visibility(False)
        self.live_card.set_visibility(False)
        self.update()

    def _tile(self, title: str) -> ui.label:
        with ui.column().classes("gap-0"):
            ui.label(title).classes(f"{MUTED} text-xs")
            return ui.label().classes("text-lg tabular-nums")

    def _build_level(self) -> None:
        """A histogram of deaths that stands on the level's picture, in the same px."""
        with ui.card().classes(f"{CARD} w-full p-3 gap-1 level") as self.level_card:
            with ui.row().classes("w-full justify-between"):
                ui.label("Where it ends, in its last evaluations").classes(MUTED)
                self.ending_text = ui.label()
            tooltip = "p => `x ${p.value[0] - 16} to ${p.value[0] + 15}: ${p.value[1]}`"
            self.deaths = ui.echart(
                {
                    "animation": False,
                    "grid": {"left": 0, "right": 0, "top": 6, "bottom": 0},
                    "tooltip": {"trigger": "item", "confine": True, ":formatter": tooltip},
                    "xAxis": {"type": "value", "min": 0, "show": False},
                    "yAxis": {"type": "value", "minInterval": 1, "show": False},
                    "series": [
                        {
                            **{"type": "bar", "data": [], "barMinWidth": 5, "barMaxWidth": 9},
                            **{"itemStyle": {"color": "#ef4444"}},
                        }
                    ],
                },
                renderer="svg",
            ).classes("w-full h-28")
            self.picture = ui.element("img").classes("w-full")
        self.level_card.set_visibility(False)

    def _switch_live(self) -> None:
        # An empty address ends the stream, and with it the game on the server.
        address = f"/live/{quote(self.name)}?{time.time():.0f}"
        self.live.props["src"] = address if self.playing.value else "about:blank"
        self.live.update()

    def update(self) -> None:
        """Show what is new."""
        status = self.board.status(self.name)
        if status is None:
            return
        self._update_head(status)
        reader = self.board.readers[self.name]
        if len(reader.rows) != self.seen_rows:
            self.seen_rows = len(reader.rows)
            for card in self.curves:
                card.update(reader.rows)
        self._update_level(reader, status)
        self._update_films(reader)

    def _update_head(self, status: RunStatus) -> None:
        self.state.set_text(status.state)
        self.state.style(f"background: {STATE_COLORS[status.state]} !important; color: #0b1120")
        # What it collapsed of stands among the findings below.
        self.why.set_text(status.trouble if status.state == "collapsed" else status.remark)
        if len(status.findings) != len(list(self.findings)):
            self.findings.set_visibility(bool(status.findings))
            self.findings.clear()
            with self.findings:
                for finding in status.findings:
                    color = "text-red-400" if finding.is_collapse else "text-amber-400"
                    ui.label(f"{finding.rule} at {finding.step:,}: {finding.message}").classes(
                        color
                    )
        texts = {
            "Steps": f"{status.step:,}" + (f" of {status.target:,}" if status.target else ""),
            "To go": "" if status.to_go_s is None else duration(status.to_go_s),
            "Steps/s": latest(status, "env_steps_per_s", 3),
            "Clear rate": f"{status.last['clear_rate']:.0%}" if "clear_rate" in status.last else "",
            "Best evaluation": best_clears(status),
            "Updated": "" if status.age_s is None else f"{duration(status.age_s)} ago",
        }
        for title, text in texts.items():
            tile = self.tiles[title]
            tile.set_text(text)
            tile.parent_slot.parent.set_visibility(bool(text))  # type: ignore[union-attr]

    def _update_level(self, reader: RunReader, status: RunStatus) -> None:
        stage = stage_of(status)
        ends = endings(reader.readable_evaluations(), stage) if stage else []
        if not ends or not stage or ends == self.seen_endings:
            return
        self.seen_endings = ends
        self.level_card.set_visibility(True)
        self.ending_text.set_text(describe_endings(ends))
        self.picture.props(f'src="/level/{stage[0]}-{stage[1]}.png"')
        self.deaths.options["xAxis"]["max"] = STAGES[stage].start_width
        self.deaths.options["series"][0]["data"] = [
            (x + BIN_PX // 2, count) for x, count in death_counts(ends)
        ]
        self.deaths.update()

    def _update_films(self, reader: RunReader) -> None:
        preview = reader.newest_preview()
        if preview and preview != self.seen_preview:
            self.seen_preview = preview
            step = preview.parent.name.removeprefix("step_")
            self.preview_title.set_text(f"Newest preview, step {int(step):,}")
            self.video.set_source(f"/preview/{quote(self.name)}?{step}")
            self.preview_card.set_visibility(True)
        if not self.live_card.visible:
            try:
                newest_model(reader.folder.path)
            except BadModelFile:
                return
            self.live_card.set_visibility(True)
            self._switch_live()


def add_page(board: Board) -> None:
    """Build the page anew for every browser that opens it."""

    @ui.page("/")
    async def index(run: str = "") -> None:
        await workers.io_bound(board.refresh)
        ui.query("body").style("background: #0b1120")
        ui.query(".nicegui-content").classes("p-4 gap-4 w-full")
        panel: RunPanel | None = None

        def select(name: str) -> None:
            nonlocal panel
            place.clear()
            with place:
                panel = RunPanel(board, name)
            ui.navigate.history.replace(f"/?run={quote(name)}")

        async def refresh() -> None:
            await workers.io_bound(board.refresh)
            show_list()
            if panel:
                panel.update()
            elif board.statuses:
                select(board.statuses[0].name)

        def show_list() -> None:
            rows = [list_row(status) for status in board.statuses]
            if rows != table.rows:
                table.rows = rows
                table.update()
            counts = [
                f"{n} {state}"
                for state in STATE_COLORS
                if (n := sum(status.state == state for status in board.statuses))
            ]
            summary.set_text(", ".join(counts) or f"no runs in {board.root} yet")

        with ui.row().classes("w-full items-baseline gap-4"):
            ui.label("Mario runs").classes("text-2xl font-semibold")
            summary = ui.label().classes(f"{MUTED} summary")
        with ui.row().classes("w-full gap-4 no-wrap items-start"):
            with ui.card().classes(f"{CARD} p-2 w-[26rem] shrink-0 runs"):
                search = ui.input(placeholder="Find a run").classes("w-full px-2").props("dense")
                table = ui.table(
                    columns=LIST_COLUMNS, rows=[], row_key="name", pagination={"rowsPerPage": 25}
                )
                table.classes("w-full bg-transparent shadow-none").props("dense flat")
                table.bind_filter_from(search, "value")
                table.add_slot("body-cell-state", STATE_CELL)
                table.on("row-click", lambda event: select(event.args[1]["name"]))
            place = ui.column().classes("grow min-w-0 gap-4")
        show_list()
        if board.statuses:
            select(run if board.status(run) else board.statuses[0].name)
        ui.timer(REFRESH_S, refresh)


# --------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------


def monitor(flags: MonitorFlags) -> None:
    """Serve the page, or write one report."""
    if flags.run_dir and not flags.run_dir.is_dir():
        raise UsageError(f"there is no run folder {flags.run_dir}")
    if not flags.run_dir and not flags.runs_root.is_dir():
        raise UsageError(f"there is no folder {flags.runs_root}; --runs-root names another")
    if flags.html and not flags.once:
        raise UsageError("--html belongs to --once")
    board = Board(flags)
    if flags.once:
        board.refresh()
        if flags.html:
            readers = [board.readers[status.name] for status in board.statuses]
            write_html(flags.html, readers, readers[:1])
            print(f"written: {flags.html}")
        elif board.statuses:
            print_runs(board.statuses)
        else:
            print(f"no runs in {board.root} yet")
        return
    serve(board, flags)


def serve(board: Board, flags: MonitorFlags) -> None:
    """Serve the page until Ctrl-C."""
    is_v6 = ":" in flags.host
    with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((flags.host, flags.port))
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"cannot listen at {flags.host}, port {flags.port} ({error}): choose another --port"
            ) from error
    torch.set_num_threads(1)  # of the games played beside a training
    app.add_middleware(Guard, hosts=LOCAL_HOSTS if flags.host in LOCAL_HOSTS else ())
    add_files(board)
    add_page(board)
    # Compiling and the first reading may take most of a minute: not under the first visitor.
    warm_up()
    board.refresh()
    host = f"[{flags.host}]" if is_v6 else flags.host
    where = f"http://{host}:{flags.port} shows the runs in {board.root}; Ctrl-C ends it"
    app.on_startup(lambda: print(where, flush=True))
    ui.run(
        host=flags.host,
        port=flags.port,
        title="Mario runs",
        favicon="🍄",
        dark=True,
        show=False,
        reload=False,
        show_welcome_message=False,
        binding_refresh_interval=0.5,
        # It would hold back the pictures of a stream until enough of them have come together.
        gzip_middleware_factory=None,
        timeout_graceful_shutdown=1,  # s: a game's stream never ends by itself
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and monitor."""
    return exit_code(lambda: monitor(parse_flags(MonitorFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
