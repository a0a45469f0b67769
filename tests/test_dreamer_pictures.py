"""The real screen beside what a model sees: an episode of the replay played again, and drawn."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dreamerv3.diagnose import main as diagnose
from dreamerv3.envs.mario import MarioStreams
from dreamerv3.flags import DreamerConfig, parse_config
from dreamerv3.perf_summary import main as perf_summary
from dreamerv3.pictures import (
    SEEN_STEPS,
    Told,
    as_rgb,
    can_show_screens,
    draw_things,
    side_by_side,
    views_of,
)
from dreamerv3.policy import make_agent
from dreamerv3.render_best import main as render_best
from mario_runtime import MarioVectorEnv
from mario_scene import COLUMNS, ROWS, TILE_TOP
from mario_scene_grid import Thing

RUN_RIGHT = 0  # of `fast`: right + B


def config_of(*flags: str) -> DreamerConfig:
    return parse_config(["--config", "mario_fast", "debug", *flags])


def lived(config: DreamerConfig, steps: int = 30) -> np.ndarray:
    """Rows of the first environment, from an episode's start."""
    streams = MarioStreams(MarioVectorEnv(config.env), seed=3)
    rows = [streams.reset()[0]]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows.append(streams.step(rng.integers(0, 3, config.env.n_envs))[0][:1])
    return np.concatenate(rows)


@pytest.mark.parametrize("flags", [(), ("--env.observation", "color", "--env.crop", "playfield")])
def test_an_episode_of_the_replay_is_played_again_for_its_screens(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(*flags)
    rows = lived(config)
    views = views_of(rows, config.env)
    assert views is not None
    assert views.screens.shape == (len(rows), 240, 256, 3)
    small = as_rgb(rows["image"], config.env)
    first, last = config.env.picture_rows
    for t in (1, len(rows) - 1):
        screen = cv2.resize(views.screens[t, first:last], (64, 64), interpolation=cv2.INTER_AREA)
        gray = screen if flags else screen @ np.array([77, 150, 29]) / 256
        seen = small[t] if flags else small[t, ..., 0]
        assert np.abs(gray.astype(float) - seen).mean() < 12, "the brighter of two frames"
    other = rows.copy()
    other["image"][20] += 1
    assert views_of(other, config.env) is None, "another episode"
    sticky = dataclasses.replace(config.env, sticky_prob=0.25)
    assert views_of(rows, sticky) is None
    assert capsys.readouterr().out == "", "what is asked for every episode says nothing"
    assert can_show_screens(config.env)
    assert not can_show_screens(sticky)
    assert capsys.readouterr().out.count("\n") == 1


def test_what_there_is_stands_side_by_side() -> None:
    torch.manual_seed(0)
    config = config_of("--model.scene-head", "informed")
    agent = make_agent(config.model, config.exploration, config.env)
    rows = lived(config, SEEN_STEPS + 2)
    views = views_of(rows, config.env)
    frames = list(side_by_side(agent, rows, config.env, views, SEEN_STEPS))
    assert len(frames) == len(rows)
    assert frames[0].shape == (240, 256 + 3 * 240, 3)
    assert frames[0].dtype == np.uint8
    np.testing.assert_array_equal(frames[0][0, 256 + 240], (0, 200, 0))
    assert (frames[-1][0, 256 + 240] != (0, 200, 0)).any()
    no_decoder = config_of("--model.picture", "redundancy")
    agent = make_agent(no_decoder.model, no_decoder.exploration, no_decoder.env)
    [frame, *_] = side_by_side(agent, rows, no_decoder.env, None, SEEN_STEPS)
    assert frame.shape == (240, 240, 3)


def test_a_thing_is_drawn_in_its_cell() -> None:
    thing = np.zeros((1, ROWS, COLUMNS), np.int64)
    thing[0, 9, 5] = Thing.WALKER
    told = Told(thing, np.zeros((1, 2, ROWS, COLUMNS), np.float32))
    blank = np.zeros((240, 256, 3), np.uint8)
    picture = draw_things(blank, told, 0, left=10)
    assert not blank.any()
    rows, columns = np.nonzero(picture[TILE_TOP + 9 * 16 :].any(-1))
    assert rows.max() == 15
    assert (columns.min(), columns[rows == 15].max()) == (10 + 80, 10 + 95)


def test_several_runs_at_once(
    tiny_dreamer_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(shutil.copytree(tiny_dreamer_run, tmp_path / name)) for name in ("a", "b")]
    flags = ["--length", "12", "--sequences", "1"]
    assert diagnose([*runs, *flags]) == 0
    out = capsys.readouterr().out
    assert f"| {runs[1]} | 0 of" in out
    for run in runs:
        assert (Path(run) / "diagnosis" / "open_loop.mp4").is_file()
        sheet = cv2.imread(str(Path(run) / "diagnosis" / "open_loop.png"))
        assert sheet is not None
        assert sheet.shape[0] == 240, "the last picture that it sees: 12 steps have no more"
    assert perf_summary(runs) == 0
    assert capsys.readouterr().out.count("environment steps in") == 2
    assert diagnose([]) == perf_summary([]) == 2
    assert render_best([runs[0]]) == 0
    assert (Path(runs[0]) / "best.mp4").is_file()
