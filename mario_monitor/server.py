"""The page's server: its files, what it asks for as JSON, pictures, films and games.

It reads run folders and changes nothing. It answers to this machine's names alone, and lets no
other site frame the page or start its games.
"""

from __future__ import annotations

import json
import mimetypes
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mario_game import STAGES, StageId
from mario_monitor.board import FIRST_LOOK_S, Board
from mario_monitor.facts import (
    RunList,
    about_content,
    curves_content,
    evaluations_content,
    levels_content,
)
from mario_monitor.live import LiveGames, Wish
from mario_report import level_picture, png
from mario_status import RunReader

PAGE = Path(__file__).parent / "page"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
MAX_ASKED = 64  # runs, or keys, in one question
# Nothing but the page's own files runs or is shown; its pictures of a game are data addresses.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


def make_app(board: Board, hosts: Sequence[str] = LOCAL_HOSTS) -> Starlette:
    """Return the page of a board as an ASGI application that answers to some hosts, or to any."""
    mimetypes.add_type("text/javascript", ".js")  # Windows' registry may say text/plain
    games, run_list = LiveGames(), RunList(board)
    levels: dict[StageId, bytes] = {}
    drawing = threading.Lock()  # one level at a time: a training may need the other core

    def reader_of(name: str) -> RunReader:
        try:
            return board.reader(name)
        except KeyError:
            raise HTTPException(404, "no such run") from None

    def index(request: Request) -> Response:
        del request
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    def runs(request: Request) -> Response:
        board.refresh(FIRST_LOOK_S)
        return json_answer(run_list.content(), request)

    def of_runs(content: Callable[[RunReader], Any]) -> Callable[[Request], Response]:
        """Return what answers with some content for each run that is asked for and there."""

        def answer(request: Request) -> Response:
            board.refresh(FIRST_LOOK_S)
            names = request.query_params.getlist("run")[:MAX_ASKED]
            found = {name: board.readers[name] for name in names if board.status(name)}
            return json_answer({name: content(reader) for name, reader in found.items()}, request)

        return answer

    def curves(request: Request) -> Response:
        keys = request.query_params.getlist("key")[:MAX_ASKED]
        return of_runs(lambda reader: curves_content(reader, keys))(request)

    def about(reader: RunReader) -> dict[str, Any]:
        status = board.status(reader.name)
        return about_content(reader, status or reader.status())

    def level(request: Request) -> Response:
        stage = stage_named(request.path_params["stage"])
        if stage is None:
            raise HTTPException(404, "no such stage")
        with drawing:
            if stage not in levels:
                levels[stage] = png(level_picture(stage))
        headers = {"Cache-Control": "max-age=86400"}
        return Response(levels[stage], media_type="image/png", headers=headers)

    def preview(request: Request) -> Response:
        video = reader_of(request.path_params["name"]).newest_preview()
        if video is None or not video.resolve().is_relative_to(board.root.resolve()):
            raise HTTPException(404, "no preview yet")
        return FileResponse(video, media_type="video/mp4")

    def live(request: Request) -> Response:
        if not is_from_here(request):
            raise HTTPException(403, "another site asks")
        reader, asked = reader_of(request.path_params["name"]), request.query_params
        wish = Wish(stage_named(asked.get("stage", "")), "scene" in asked, "argmax" in asked)
        return StreamingResponse(
            games.stream(reader, wish),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    routes = [
        Route("/", index),
        Route("/api/runs", runs),
        Route("/api/curves", curves),
        Route("/api/evaluations", of_runs(evaluations_content)),
        Route("/api/levels", of_runs(levels_content)),
        Route("/api/about", of_runs(about)),
        Route("/level/{stage}.png", level),
        Route("/preview/{name:path}", preview),
        Route("/live/{name:path}", live),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts)])
    app.state.games = games
    return app


class Server(uvicorn.Server):
    """Serves such an application until a signal, which ends the games first.

    A game's stream never ends by itself, and would be torn off with a traceback.
    """

    def __init__(self, app: Starlette) -> None:
        """Serve it without a word but warnings."""
        config = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,  # s: a game needs a step's time, or the model is loading
        )
        super().__init__(config)
        self.games: LiveGames = app.state.games

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.games.end()
        super().handle_exit(sig, frame)


def json_answer(content: Any, request: Request) -> Response:
    """Return content as JSON, or that it is what the browser has already."""
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    tag = f'"{len(body):x}-{hash(body) & 0xFFFFFFFFFFFFFFFF:x}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def stage_named(text: str) -> StageId | None:
    """Return the stage that "8-4" names; None if there is none."""
    return next((stage for stage in STAGES if str(stage) == text), None)


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
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.hosts and host_of(scope) not in self.hosts:
            await PlainTextResponse("Invalid host header", 400)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, guarded)


def host_of(scope: Scope) -> str:
    """Return the name that a request asks for, without its port; empty if it is none."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
