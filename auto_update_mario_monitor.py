"""A web page of all runs: overlaid curves, evaluations, where they die, configs, models playing.

    python auto_update_mario_monitor.py --runs-root runs --port 8080
    python auto_update_mario_monitor.py --runs-root runs --once --html report.html

It reads run folders and writes nothing into them. The page is for this machine only unless --host
says otherwise; it has no password.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pydantic

from fastnes import warm_up
from mario_cli import UsageError, exit_code
from mario_monitor.board import Board
from mario_monitor.configs import recipe_of
from mario_monitor.report import write_html
from mario_monitor.server import LOCAL_HOSTS, Server, make_app
from mario_report import print_runs
from mario_values import Checked, parse_flags

DETAILED = 8  # runs that a report shows in detail if none are named

PORTION_S = 1.0  # of reading all runs for the first time, until the page shows what is read


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
    browser: bool = True
    """Open the page in this machine's browser, if it has one and a screen."""
    once: bool = False
    """Print a table of the runs and end."""
    html: Path | None = None
    """With --once: write a page to this file instead, which needs nothing else."""
    runs: tuple[str, ...] = ()
    """With --html: the runs it overlays, by their names in the table. Unset: the newest eight."""


def monitor(flags: MonitorFlags) -> None:
    """Serve the page, or write one report."""
    if flags.run_dir and not flags.run_dir.is_dir():
        raise UsageError(f"there is no run folder {flags.run_dir}")
    if not flags.run_dir and not flags.runs_root.is_dir():
        raise UsageError(f"there is no folder {flags.runs_root}; --runs-root names another")
    if flags.html and not flags.once:
        raise UsageError("--html belongs to --once")
    if flags.runs and not flags.html:
        raise UsageError("--runs belongs to --html")
    board = Board(flags.runs_root, flags.run_dir)
    if not flags.once:
        serve(board, flags)
        return
    board.refresh()
    names = [status.name for status in board.statuses]
    if missing := [name for name in flags.runs if name not in names]:
        raise UsageError(f"there is no run {missing[0]!r} in {board.root}")
    if flags.html:
        readers = [board.readers[name] for name in names]
        detailed = [board.readers[name] for name in flags.runs or names[:DETAILED]]
        write_html(flags.html, readers, detailed)
        print(f"written: {flags.html}")
    elif names:
        print_runs(board.statuses)
    else:
        print(f"no runs in {board.root} yet")


def serve(board: Board, flags: MonitorFlags) -> None:
    """Serve the page until Ctrl-C."""
    is_v6 = ":" in flags.host
    with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET) as listener:
        # On Windows this option would let two servers share a port.
        if os.name != "nt":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((flags.host, flags.port))
            listener.listen()
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"cannot listen at {flags.host}, port {flags.port} ({error}): choose another --port"
            ) from error
        port = listener.getsockname()[1]  # 0 asks for any
        host = f"[{flags.host}]" if is_v6 else flags.host
        address = f"http://{host}:{port}"
        print(f"{address} shows the runs in {board.root}; Ctrl-C ends it", flush=True)
        # Compiling and the first reading may take most of a minute: the page comes before.
        threading.Thread(target=prepare, args=(board,), daemon=True).start()
        if flags.browser and has_screen():
            webbrowser.open(address)
        app = make_app(board, LOCAL_HOSTS if flags.host in LOCAL_HOSTS else ())
        with contextlib.suppress(KeyboardInterrupt):
            Server(app).run(sockets=[listener])


def prepare(board: Board) -> None:
    """Read all runs, compile what draws levels and plays games, load what knows the recipes."""
    board.refresh(PORTION_S)
    while board.unread:
        board.refresh(PORTION_S)
    warm_up()
    recipe_of("ppo")


def has_screen() -> bool:
    """Return whether a browser of this machine would be seen by whoever started the page."""
    names = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and monitor."""
    return exit_code(lambda: monitor(parse_flags(MonitorFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
