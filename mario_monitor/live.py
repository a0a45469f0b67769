"""A run's newest model playing, for as long as somebody watches: what it sees and what it does."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from mario_cli import UsageError
from mario_config import buttons_of_actions, in_process
from mario_game import StageId
from mario_judge import protocol_config
from mario_rollout import Moment, button_names, game_fps, in_stages, watch
from mario_runs import BadModelFile, printable
from mario_scene_picture import ScenePainter
from mario_status import RunReader, newest_model

MAX_LIVE = 4  # games played at once; each takes about a tenth of a core
ENDING_S = 1.5  # how long the last picture of an episode stays
NO_MODEL_S = 10.0  # until it is looked for again
SCALE = 2  # px of the picture for each px of the screen
SCENE_SCALE = 3  # with the scene over it, whose names want room


class Wish(NamedTuple):
    """What somebody wants to watch."""

    stage: StageId | None = None  # another than the run's own
    shows_scene: bool = False  # what the game says, drawn over the picture
    is_argmax: bool = False  # instead of samples


class LiveGames:
    """Newest models playing, each for as long as someone watches."""

    def __init__(self, limit: int = MAX_LIVE) -> None:
        self._free = threading.Semaphore(limit)
        self._ended = threading.Event()

    def end(self) -> None:
        """Let every stream end with its next moment, and no other begin."""
        self._ended.set()

    def stream(self, reader: RunReader, wish: Wish) -> Iterator[bytes]:
        """Yield an endless text/event-stream: a JSON object a moment, at the game's speed."""
        if not self._free.acquire(blocking=False):
            yield event({"notice": "too many games are being watched"})
            self._ended.wait(NO_MODEL_S)
            return
        try:
            yield event({"notice": "loading"})
            for seed in itertools.count(int(time.time())):
                yield from self._episode(reader, wish, seed)
                if self._ended.is_set():
                    return
        finally:
            self._free.release()

    def _episode(self, reader: RunReader, wish: Wish, seed: int) -> Iterator[bytes]:
        from mario_policies import load_policy  # torch: for who watches, not for who reads curves

        try:
            model = newest_model(reader.folder.path)
            policy = load_policy(model)
        except (BadModelFile, UsageError) as error:
            yield event({"notice": printable(str(error))})
            self._ended.wait(NO_MODEL_S)
            return
        stages = (wish.stage,) if wish.stage else ()
        config = protocol_config(in_stages(in_process(policy.env_config), stages), "noop")
        names = [button_names(int(buttons)) or "nothing" for buttons in buttons_of_actions(config)]
        yield event({"begin": printable(model.name), "seed": seed, "actions": names})
        painter = ScenePainter(SCENE_SCALE) if wish.shows_scene else None
        tick_s = 1 / game_fps(config)
        due = time.monotonic()
        moments = watch(
            policy,
            config,
            seed,
            deterministic=wish.is_argmax,
            every_frame=wish.shows_scene,
        )
        for moment in moments:
            yield event(moment_content(moment, painter))
            now = time.monotonic()
            due = max(due + (ENDING_S if moment.done else tick_s), now)
            if self._ended.wait(due - now):
                return


def event(content: dict[str, Any]) -> bytes:
    """Return JSON as one event of a text/event-stream."""
    return b"data: " + json.dumps(content, allow_nan=False).encode() + b"\n\n"


def moment_content(moment: Moment, painter: ScenePainter | None = None) -> dict[str, Any]:
    """Return a moment as the page shows it: pictures as data addresses, numbers as numbers."""
    value = moment.value
    return {
        "screen": data_address(screen_of(moment, painter)),
        "seen": [data_address(picture) for picture in seen_pictures(moment.seen)],
        "step": moment.step,
        "x": moment.x,
        "stage": str(moment.stage),
        "value": float(f"{value:.4g}") if value is not None and np.isfinite(value) else None,
        "buttons": button_names(moment.buttons) or "nothing",
        "probabilities": [round(float(share), 4) for share in np.nan_to_num(moment.probabilities)],
        "ending": ("cleared" if moment.flag else "died or ran out of time") if moment.done else "",
    }


def screen_of(moment: Moment, painter: ScenePainter | None) -> np.ndarray:
    """Return the screen enlarged, uint8[h, w, 3], with the scene over it if there is a painter."""
    if painter is None:
        return moment.screen.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    picture = moment.screen
    for frame in moment.frames:  # each shows what RAM said a frame before it
        picture = painter.paint(frame.screen, frame.ram)
    return picture if moment.frames else moment.screen.repeat(SCALE, 0).repeat(SCALE, 1)


def seen_pictures(seen: np.ndarray) -> list[np.ndarray]:
    """Return what a policy sees as pictures uint8[h, w, 3], the oldest first; none of a scene.

    Args:
        seen: uint8[k, h, w], k pictures in gray or one in RGB planes; or no picture at all.
    """
    if seen.dtype != np.uint8 or seen.ndim != 3:
        return []
    if seen.shape[2] == 3:
        return [seen]
    return [np.repeat(gray[..., None], 3, axis=2) for gray in seen]


def data_address(picture: np.ndarray) -> str:
    """Return a picture, uint8[h, w, 3], as a JPEG that an <img> can have as its address."""
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return f"data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}"
