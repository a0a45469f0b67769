"""The probe that says what a world model sees: by hand, on features that tell all, on a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamerv3.envs.mario import mario_row
from dreamerv3.flags import parse_config
from dreamerv3.policy import make_agent
from dreamerv3.probe import main
from dreamerv3.sight import (
    FORETOLD,
    Look,
    figures,
    fit,
    follow,
    joined,
    look_at,
    play_at_random,
    small,
    table_lines,
    where,
)
from mario_cli import UsageError
from mario_game import parse_stages
from mario_scene import COLUMNS, ROWS
from mario_scene_grid import DX, PLANES, THING, THINGS, Thing

DEBUG = parse_config(["--config", "mario_fast", "debug"])
LOOK = Look(
    parse_stages("1-1"), parse_stages("1-1"), envs=4, length=32, fit_rounds=1, judge_rounds=1
)


def a_grid(*things: tuple[int, int, int, Thing]) -> torch.Tensor:
    """Things at (moment, row, column) of two moments."""
    grid = torch.zeros(2, PLANES, ROWS, COLUMNS, dtype=torch.int8)
    for moment, row, column, thing in things:
        grid[moment, THING, row, column] = thing
    return grid


def test_recall_precision_and_place_error_by_hand() -> None:
    grid = a_grid((0, 9, 5, Thing.WALKER), (0, 9, 12, Thing.WALKER), (1, 3, 3, Thing.LIFT))
    grid[0, DX, 9, 5] = 4
    told = torch.zeros(2, THINGS, ROWS, COLUMNS, dtype=torch.bool)
    told[0, Thing.WALKER, 9, 6] = True  # a cell too far right: 16 - 4 px
    told[1, Thing.WALKER, 9, 12] = True  # there is none in this moment
    told[1, Thing.LIFT, 3, 3] = True
    found = figures(told, grid)
    assert found["walker"] == (2, 2, 0.5, 0.5, 12.0)
    assert found["lift"] == (1, 1, 1.0, 1.0, 0.0)
    assert found["enemies"] == found["walker"]
    assert found["all but Mario"].recall == pytest.approx(2 / 3)
    assert "plant" not in found
    nothing = figures(torch.zeros_like(told), grid)
    assert nothing["walker"] == (2, 0, 0.0, None, None)


def test_features_that_tell_where_things_are_are_read_and_noise_is_not() -> None:
    torch.manual_seed(0)
    n = 1200
    grid = torch.zeros(n, PLANES, ROWS, COLUMNS, dtype=torch.int8)
    row, column = torch.randint(8, 11, (n,)), torch.randint(0, COLUMNS, (n,))
    grid[torch.arange(n), THING, row, column] = Thing.WALKER
    telling = where(grid)[:, Thing.WALKER, 8:11].flatten(1).float() @ torch.randn(48, 64)
    half = n // 2
    told = fit(telling[:half], grid[:half]).tell(telling[half:])
    good = figures(told, grid[half:])["walker"]
    assert good.recall is not None
    assert good.precision is not None
    assert good.recall > 0.95
    assert good.precision > 0.95
    noise = torch.randn(n, 64)
    bad = figures(fit(noise[:half], grid[:half]).tell(noise[half:]), grid[half:])["walker"]
    assert (bad.recall or 0) * (bad.precision or 0) < 0.25


def test_play_is_the_same_for_every_model_and_other_seeds_play_otherwise() -> None:
    one, again, other = (next(play_at_random(DEBUG.env, LOOK, 1, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.action, other.action)
    assert one.image.shape == (32, 4, *mario_row(DEBUG.env)["image"].shape)
    assert (one.grid[:, :, THING] == Thing.MARIO).any()


def test_foretold_states_have_seen_no_picture_and_stop_where_an_episode_does() -> None:
    torch.manual_seed(0)
    agent = make_agent(DEBUG.model, DEBUG.exploration, DEBUG.env)
    play = next(play_at_random(DEBUG.env, LOOK, 1, 1))
    before = torch.get_rng_state()
    seen = joined(list(follow(agent, play)))
    assert torch.equal(before, torch.get_rng_state()), "a look changes no training"
    assert (seen.ahead == 0).sum() == 32 * 4
    assert seen.ahead.max() == FORETOLD
    changed = play.image.clone()
    changed[9:] = 255 - changed[9:]  # after what the first open loop saw
    blind = joined(list(follow(agent, play._replace(image=changed))))
    first = (seen.ahead > 0).nonzero()[: 4 * FORETOLD, 0]
    assert torch.equal(seen.features[first], blind.features[first])
    assert not torch.equal(seen.features, blind.features)
    ended = play.is_first.clone()
    ended[10] = True
    cut = joined(list(follow(agent, play._replace(is_first=ended))))
    assert set(cut.ahead.tolist()) == {0, 1}


@pytest.mark.slow
def test_a_run_is_looked_at_by_one_command(tiny_dreamer_run: Path, tmp_path: Path) -> None:
    flags = f"--run-dir {tiny_dreamer_run} --output {tmp_path} --fit-rounds 1 --judge-rounds 1"
    assert main(flags.split()) == 0
    found: dict[str, Any] = json.loads((tmp_path / "probe.json").read_text())
    assert found["fitted_on"] == found["judged_on"] == 16 * 64
    for reading in ("latent", "foretold", "foretold_1-5", "pixels", "pixels_foretold"):
        assert found[reading]["mario"]["things"] > 0, reading
    assert found["empty"]["mario"]["recall"] == 0
    assert "| walker |" in (tmp_path / "probe.md").read_text()


def test_a_sequence_that_is_too_short_is_said() -> None:
    agent = make_agent(DEBUG.model, DEBUG.exploration, DEBUG.env)
    look = Look(LOOK.fit_stages, LOOK.judge_stages, envs=2, length=10, fit_rounds=1, judge_rounds=1)
    with pytest.raises(UsageError, match="more than 23 steps"):
        look_at(agent, DEBUG.env, look)


def test_pictures_are_shrunk_for_the_other_probe() -> None:
    assert small(torch.zeros(2, 1, 64, 64, dtype=torch.uint8)).shape == (2, 32 * 32)
    assert small(torch.zeros(2, 3, 96, 96, dtype=torch.uint8)).shape == (2, 3 * 32 * 32)
    assert next(
        table_lines(
            {
                "fitted_on": 1,
                "fit_stages": "1-1",
                "judged_on": 1,
                "foretold_on": 1,
                "judge_stages": "1-1",
            }
        )
    ).startswith("Fitted on 1 moments")
