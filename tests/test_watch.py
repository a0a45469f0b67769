"""The window, on a display of its own; demos, recorded by anyone, replayed on both emulators."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mario_window
import watch_mario
from fastnes import BUTTON_BITS, start_snapshot
from fastnes.state import RAM_SIZE
from mario_config import in_process
from mario_demos import Demo, load_demo, save_demo
from mario_game import StageId
from mario_judge import protocol_config
from mario_policies import load_policy, shipped_model
from mario_rollout import play

ROOT = Path(__file__).parents[1]
RIGHT, A, B = (BUTTON_BITS[name] for name in ("right", "A", "B"))


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDL's own stand-in for a display: windows open, keys can be posted, nothing is shown."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def press(window: mario_window.Window, *keys: int, up: bool = False) -> None:
    kind = window.pygame.KEYUP if up else window.pygame.KEYDOWN
    for key in keys:
        window.pygame.event.post(window.pygame.event.Event(kind, key=key))


# --------------------------------------------------------------------------------------------
# Demos
# --------------------------------------------------------------------------------------------


def test_a_policys_clear_is_recorded_and_replays_on_both_emulators(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "demo.npz"
    flags = ["--record", str(path), "--headless", "--deterministic", "--seed", "4"]
    assert watch_mario.main(flags) == 0
    demo = load_demo(path)
    assert demo.cleared
    assert (demo.source, demo.seed) == ("policy:best_eval", 4)
    # The same episode as the rollout loop's own, no-ops apart.
    policy = load_policy(shipped_model(StageId(1, 1)) or Path())
    config = protocol_config(in_process(policy.env_config), "noop")
    episode = play(policy, config, 1, deterministic=True, seed=4)[0]
    assert (demo.agent_steps, demo.x[-1]) == (episode.length, episode.end_x)
    for emulator in ("fast", "nes-py"):
        replay = ["--replay", str(path), "--headless", "--emulator", emulator]
        assert watch_mario.main(replay) == 0
        assert f"{demo.frames} frames on {emulator}: cleared" in capsys.readouterr().out


def test_a_demo_that_parts_says_at_which_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "demo.npz"
    assert watch_mario.main(["--record", str(path), "--headless", "--protocol", "fixed"]) == 0
    demo = load_demo(path)
    changed = demo.buttons.copy()
    changed[100:120] = 0
    save_demo(path, Demo(**{**vars(demo), "buttons": changed}))
    assert watch_mario.main(["--replay", str(path), "--headless"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: on fast it parts from what was recorded at frame 10")
    assert error.count("\n") == 1


def test_the_better_episode_is_kept(tmp_path: Path) -> None:
    recorder = watch_mario.Recorder(tmp_path / "demo.npz")
    stage = StageId(1, 1)
    far, near = [RIGHT | B] * 200, [RIGHT | B] * 60
    recorder.add(stage, near, "human")
    recorder.add(stage, far, "human")
    recorder.add(stage, near, "human")
    assert load_demo(tmp_path / "demo.npz").frames > 60
    watch_mario.Recorder(None).add(stage, far, "human")


# --------------------------------------------------------------------------------------------
# The window
# --------------------------------------------------------------------------------------------


def test_keys_play_mario_and_what_is_played_is_recorded(
    no_screen: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.npz"
    show = mario_window.Window.show
    frames = 0

    def press_and_show(window: mario_window.Window, *arguments: Any, **more: Any) -> None:
        nonlocal frames
        keys = {0: (window.pygame.K_RIGHT, window.pygame.K_z), 30: (window.pygame.K_x,)}
        press(window, *keys.get(frames, ()))
        if frames == 45:
            press(window, window.pygame.K_x, up=True)
        if frames == 80:
            press(window, window.pygame.K_ESCAPE)
        frames += 1
        show(window, *arguments, **more)

    monkeypatch.setattr(mario_window.Window, "show", press_and_show)
    assert watch_mario.main(["--human", "--record", str(path), "--speed", "1000"]) == 0
    demo = load_demo(path)
    assert demo.source == "human"
    assert (demo.buttons[:30] == RIGHT | B).all()
    assert (demo.buttons[30:45] == RIGHT | B | A).all()
    assert (demo.buttons[45:] == RIGHT | B).all()
    assert demo.frames == 80
    assert demo.x[-1] > 150


def test_pause_step_speed_and_next_episode(no_screen: None) -> None:
    keys = mario_window.parse_keys(())
    window = mario_window.Window("test", speed=float("inf"), keys=keys)
    try:
        pygame, screen = window.pygame, np.zeros((240, 256, 3), np.uint8)

        def show() -> None:
            window.show(screen, 0, {})

        press(window, pygame.K_MINUS)
        show()
        assert window.speed == 8
        for _ in range(3):
            press(window, pygame.K_MINUS)
        press(window, pygame.K_PLUS)
        show()
        assert window.speed == 2
        press(window, *[pygame.K_PERIOD] * 3)
        show()  # the first pauses, the others are a frame each
        show()
        assert (window.is_paused, window.steps_asked) == (True, 0)
        press(window, pygame.K_SPACE)
        show()
        assert not window.is_paused
        press(window, pygame.K_LEFT, pygame.K_RIGHT, pygame.K_DOWN)
        show()
        assert window.held_buttons() == BUTTON_BITS["down"], "left and right together are nothing"
        for key, asked in (
            (pygame.K_RETURN, mario_window.NextEpisode),
            (pygame.K_ESCAPE, mario_window.Closed),
        ):
            press(window, key)
            with pytest.raises(asked):
                show()
    finally:
        window.close()


def test_a_gamepad_plays_and_any_key_begins(no_screen: None) -> None:
    window = mario_window.Window("test", speed=float("inf"), keys=mario_window.parse_keys(()))
    try:
        pygame, screen = window.pygame, np.zeros((240, 256, 3), np.uint8)

        def say(kind: int, **values: Any) -> None:
            pygame.event.post(pygame.event.Event(kind, **values))

        say(pygame.JOYAXISMOTION, axis=0, value=0.9)
        say(pygame.JOYBUTTONDOWN, button=0)
        say(pygame.JOYBUTTONDOWN, button=2)
        window.show(screen, 0, {})
        assert window.held_buttons() == RIGHT | A | B
        say(pygame.JOYAXISMOTION, axis=0, value=0.1)
        say(pygame.JOYBUTTONUP, button=0)
        say(pygame.JOYBUTTONUP, button=2)
        say(pygame.JOYHATMOTION, value=(-1, -1))
        window.show(screen, 0, {})
        assert window.held_buttons() == BUTTON_BITS["left"] | BUTTON_BITS["down"]
        say(pygame.JOYHATMOTION, value=(0, 0))
        window.show(screen, 0, {})
        # Enter, which skips an episode elsewhere, only begins one here.
        press(window, pygame.K_RETURN)
        window.wait_for_key(screen, {}, "press any key")
        press(window, pygame.K_RETURN, up=True)
        press(window, pygame.K_ESCAPE)
        with pytest.raises(mario_window.Closed):
            window.show(screen, 0, {})
    finally:
        window.close()


def test_other_keys_play_by_a_flag_and_stand_in_the_panel(no_screen: None) -> None:
    keys = mario_window.parse_keys(("A=k", "B=space", "left=a"))
    assert {key: keys[key] for key in ("k", "space", "a", "right")} == {
        **{"k": "A", "space": "B", "a": "left", "right": "right"}
    }
    assert "x" not in keys
    lines = dict(mario_window.key_lines(keys))
    assert lines["K"] == "jump"
    assert lines["space"] == "run, fire"
    window = mario_window.Window("test", speed=float("inf"), keys=keys)
    try:
        press(window, window.pygame.K_k, window.pygame.K_SPACE)
        window.show(np.zeros((240, 256, 3), np.uint8), 0, {})
        assert window.held_buttons() == A | B
        assert not window.is_paused, "a key that plays does nothing else"
    finally:
        window.close()


def test_the_window_names_the_model_and_how_long_it_was_trained(tiny_run: Path) -> None:
    facts = watch_mario.model_facts(tiny_run / "evaluations" / "best_eval.zip")
    assert facts["model"] == "tiny: best_eval"
    assert facts["trained"] in ("128 steps", "256 steps")


def test_scene_is_drawn_over_the_picture(no_screen: None) -> None:
    screen, ram = np.zeros((240, 256, 3), np.uint8), start_snapshot(1, 1)[:RAM_SIZE]
    pictures = []
    for shows_scene in (False, True):
        window = mario_window.Window("test", 1.0, shows_scene)
        try:
            window.show(screen, 0, {}, ram=ram)
            whole = window.pygame.surfarray.array3d(window.surface)
            pictures.append(whole[: 256 * mario_window.SCALE].swapaxes(0, 1))
        finally:
            window.close()
    plain, drawn = pictures
    ground = slice(mario_window.SCALE * 208, None)  # the two lowest rows of cells
    assert not plain[ground].any()
    assert drawn[ground].any(axis=2).mean() > 0.5


def test_next_and_escape_end_an_episode_and_the_window(
    no_screen: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds: list[str] = []
    show = mario_window.Window.show

    def watched(
        window: mario_window.Window, screen: Any, buttons: int, facts: Any, *rest: Any
    ) -> None:
        seeds.append(facts["seed"])
        if seeds.count(facts["seed"]) == 40:
            is_third = facts["seed"] == "9"
            press(window, window.pygame.K_ESCAPE if is_third else window.pygame.K_RETURN)
        show(window, screen, buttons, facts, *rest)

    monkeypatch.setattr(mario_window.Window, "show", watched)
    assert watch_mario.main(["--seed", "7", "--speed", "1000"]) == 0
    assert [seeds.count(seed) for seed in ("7", "8", "9")] == [40, 40, 40]


def test_without_a_display_it_points_to_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert watch_mario.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no window can be opened here")
    assert "`run_mario.sh monitor`" in error
    assert error.count("\n") == 1
    monkeypatch.setenv("DISPLAY", ":4711")
    assert watch_mario.main(["--human"]) == 1
    assert "no window can be opened here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--human --model x", "--model, --human and --replay exclude each other"),
        ("--headless --human", "--human needs the window"),
        ("--keys A=k", "--keys belongs to --human"),
        ("--human --keys C=k", "--keys 'C=k': say A=k"),
        ("--human --keys A=k B=k", "--keys: k is to be both A and B"),
        ("--headless", "--headless needs --record or --replay"),
        ("--speed 0", "--speed must be above 0"),
        ("--speed nan", "--speed is nan: no number of a flag"),
        ("--episodes -1", "--episodes must not be negative"),
        ("--seed -1", "--seed must not be negative"),
        ("--human --world 0", "no stage '0-1'"),
        ("--human --stages 1-1,1-2", "--human plays one stage"),
        ("--replay a.npz --record b.npz", "not both"),
        ("--replay nowhere.npz", "cannot read nowhere.npz"),
        ("--model nowhere.zip", "there is no model file nowhere.zip"),
        ("--record README.md --headless", "README.md is there already"),
        ("--record new.npz --headless --world 9", "no stage '9-1'"),
    ],
)
def test_what_does_not_fit_is_one_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert watch_mario.main(flags.split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def picture_of(framebuffer: Path) -> np.ndarray:
    """Return what an X server shows, uint8[height, width, 3], from the XWD file it keeps it in."""
    content = framebuffer.read_bytes()
    header = struct.unpack(">25I", content[:100])
    header_bytes, width, height, line_bytes, colors = (header[i] for i in (0, 4, 5, 12, 19))
    pixels = np.frombuffer(content, np.uint8, line_bytes * height, header_bytes + 12 * colors)
    return pixels.reshape(height, line_bytes)[:, : 4 * width].reshape(height, width, 4)[..., 2::-1]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("Xvfb"), reason="no Xvfb here (Debian: apt-get install xvfb)")
def test_the_window_on_a_display(tmp_path: Path) -> None:
    read, write = os.pipe()
    display = subprocess.Popen(
        f"Xvfb -screen 0 1280x800x24 -nolisten tcp -fbdir {tmp_path} -displayfd {write}".split(),
        pass_fds=[write],
    )
    try:
        os.close(write)
        number = os.fdopen(read).readline().strip()
        with subprocess.Popen(
            [sys.executable, "watch_mario.py", "--seed", "3"],
            cwd=ROOT,
            env={**os.environ, "DISPLAY": f":{number}"},
        ) as watching:
            seen: set[bytes] = set()
            deadline = time.monotonic() + 180
            while len(seen) < 20 and time.monotonic() < deadline:
                picture = picture_of(tmp_path / "Xvfb_screen0")
                if picture.any():
                    seen.add(picture[:720, :768].tobytes())
                time.sleep(0.05)
            watching.terminate()
        assert len(seen) == 20, "the game moves"
        panel = picture[:720, 768:1068].reshape(-1, 3)
        colors = {tuple(color) for color in np.unique(panel, axis=0).tolist()}
        assert {mario_window.Window.LIT, mario_window.Window.LINE} <= colors, "buttons and shares"
    finally:
        display.terminate()
        display.wait()
