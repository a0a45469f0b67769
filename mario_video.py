"""Films: an episode played again, as screens, with captions, as mp4 or GIF.

What films need, OpenCV, Pillow and imageio, is imported here alone.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mario_config import EnvConfig
from mario_rollout import (
    Episode,
    Moment,
    Policy,
    as_played,
    button_names,
    start_options,
    watch_again,
)
from mario_runs import atomic_write
from mario_runtime import make_single_env

CAPTION_HEIGHT = 32  # px below a screen of twice its size: 512 x 512 in all
CAPTION_COLOR = (24, 24, 32)
WEBP_QUALITY = 20  # of 100: pixel art needs little
CAPTION_FONT = ImageFont.load_default(size=18)


def film(episode: Episode, config: EnvConfig, *, every_frame: bool = False) -> Iterator[np.ndarray]:
    """Yield the full screens of an episode played again, uint8[240, 256, 3] each, start included.

    Args:
        episode: what to play again.
        config: under which it was played; its stages may be others.
        every_frame: all 60 a second, no-ops at the start included, instead of one an agent step.

    Raises:
        RuntimeError: the replay ended elsewhere than the episode did.
    """
    frames: list[np.ndarray] = []

    def keep(pressed: int, game: gym.Env) -> None:
        del pressed
        frames.append(np.array(game.render()))

    env = make_single_env(as_played(config, episode), on_frame=keep if every_frame else None)

    def screens() -> list[np.ndarray]:
        shown = frames[:] if every_frame else [np.array(env.render())]
        frames.clear()
        return shown

    try:
        _, info = env.reset(seed=episode.seed, options=start_options(episode.noops))
        yield from screens()
        for action in episode.actions:
            _, _, _, _, info = env.step(action)
            yield from screens()
        _check_end(episode, info["x_pos"], info["is_success"])
    finally:
        env.close()


def _check_end(episode: Episode, x: int, flag: bool) -> None:
    if (x, flag) != (episode.end_x, episode.flag):
        raise RuntimeError(f"replay of seed {episode.seed} ended at x {x}, not at {episode.end_x}")


def film_with_captions(
    episode: Episode, config: EnvConfig, policy: Policy, *, every_frame: bool = False
) -> Iterator[np.ndarray]:
    """Yield what `film` does, `with_caption`: uint8[512, 512, 3] each.

    Raises:
        RuntimeError: the replay ended elsewhere than the episode did.
    """
    for moment in watch_again(policy, config, episode, every_frame=every_frame):
        screens = [frame.screen for frame in moment.frames] if every_frame else [moment.screen]
        for screen in screens:
            yield with_caption(moment._replace(screen=screen))
    _check_end(episode, moment.x, moment.flag)


def with_caption(moment: Moment) -> np.ndarray:
    """Return the screen twice as large with a strip below, uint8[512, 512, 3].

    The strip says step, x, what the policy expects if it says that, and the buttons that led here.
    """
    width = 2 * moment.screen.shape[1]
    strip = Image.new("RGB", (width, CAPTION_HEIGHT), CAPTION_COLOR)
    draw = ImageDraw.Draw(strip)
    value = "" if moment.value is None else f"value {moment.value:+.2f}"
    for x, text in ((8, f"step {moment.step}"), (108, f"x {moment.x}"), (198, value)):
        draw.text((x, CAPTION_HEIGHT // 2), text, "white", CAPTION_FONT, anchor="lm")
    names = button_names(moment.buttons)
    draw.text((width - 8, CAPTION_HEIGHT // 2), names, "gold", CAPTION_FONT, anchor="rm")
    return np.vstack([scaled(moment.screen, width), np.asarray(strip)])


def scaled(frame: np.ndarray, max_width: int) -> np.ndarray:
    """Return uint8[h, w, 3] as wide as max_width allows, both sides even (H.264 wants that).

    Larger by whole factors, so that pixels stay pixels; smaller by the mean of the area covered.
    """
    height, width = frame.shape[:2]
    if factor := max_width // width:
        return frame.repeat(factor, axis=0).repeat(factor, axis=1)
    even_width = max_width // 2 * 2
    size = (even_width, round(height * even_width / width / 2) * 2)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def small_gif(frames: Iterator[np.ndarray], fps: float) -> tuple[bytes, int, int]:
    """Return every second frame as a GIF of half size, for TensorBoard, and its width and height.

    Args:
        frames: uint8[h, w, 3] each, an even size.
        fps: frames a second.
    """
    images = [
        Image.fromarray(frame[::2, ::2]).quantize(32)
        for frame in itertools.islice(frames, 0, None, 2)
    ]
    buffer = io.BytesIO()
    milliseconds = round(2000 / fps)
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0
    )
    return buffer.getvalue(), *images[0].size


def write_video(
    path: Path,
    frames: Iterator[np.ndarray] | Sequence[np.ndarray],
    fps: float,
    max_width: int = 512,
    quality: float = 7,
) -> int:
    """Write RGB frames as H.264 mp4, GIF or WebP, by the suffix, and return how many there were.

    Args:
        path: replaced as a whole when the film is complete.
        frames: uint8[h, w, 3] each, with h and w even.
        fps: frames a second; a GIF, which counts in hundredths of a second, keeps to it on average.
        max_width: px, at least 16; frames are `scaled` to it.
        quality: of an mp4, up to 10.
    """
    count = 0

    def sized() -> Iterator[np.ndarray]:
        nonlocal count
        for frame in frames:
            count += 1
            yield scaled(frame, max_width)

    def write_gif(temporary: Path) -> None:
        first, *others = [Image.fromarray(frame).quantize(256) for frame in sized()]
        ends = [round(100 * i / fps) for i in range(count + 1)]
        durations_ms = [10 * (end - begin) for begin, end in itertools.pairwise(ends)]
        first.save(temporary, save_all=True, append_images=others, duration=durations_ms, loop=0)

    def write_webp(temporary: Path) -> None:
        first, *others = [Image.fromarray(frame) for frame in sized()]
        ends = [round(1000 * i / fps) for i in range(count + 1)]
        first.save(
            temporary,
            save_all=True,
            append_images=others,
            duration=[end - begin for begin, end in itertools.pairwise(ends)],
            loop=0,
            quality=WEBP_QUALITY,
            method=4,
        )

    def write_mp4(temporary: Path) -> None:
        with imageio.get_writer(
            temporary,
            fps=fps,
            codec="libx264",
            quality=quality,
            macro_block_size=2,
            ffmpeg_log_level="quiet",
        ) as writer:
            for frame in sized():
                writer.append_data(frame)  # type: ignore[attr-defined]
        if not is_whole_mp4(temporary):  # ffmpeg's own end is not looked at by imageio
            raise OSError(errno.EIO, "ffmpeg could not write all: is the disk full?", str(path))

    writers = {".gif": write_gif, ".webp": write_webp}
    atomic_write(path, writers.get(path.suffix, write_mp4))
    return count


def poster(path: Path) -> bytes | None:
    """Return a film's first picture as a JPEG file; None if it cannot be read."""
    try:
        with imageio.get_reader(path) as reader:
            picture = np.asarray(reader.get_data(0))  # type: ignore[attr-defined]
    except (OSError, ValueError, IndexError, RuntimeError):  # what imageio says of a torn file
        return None
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return content.tobytes()


def is_whole_mp4(path: Path) -> bool:
    """Return whether a film has its index (the box `moov`, ISO/IEC 14496-12), which comes last."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        at = 0
        while at + 8 <= size:
            file.seek(at)
            length = int.from_bytes(file.read(4))
            kind = file.read(4)
            if length == 1:  # the true length comes after it
                length = int.from_bytes(file.read(8))
            if length < 8 or at + length > size:
                return False
            if kind == b"moov":
                return True
            at += length
    return False
