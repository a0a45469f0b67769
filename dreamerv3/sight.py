"""What a world model's latent state knows of the objects on the screen, told by a linear probe.

The model is frozen. A ridge regression reads its features and says, for each cell of the scene's
grid (`mario_scene_grid`) and each class of things, whether one is there: at once, from the state
that has seen the picture (the posterior), and foretold, from states that the model imagines
under the actions that were really done (the prior). It is fitted on episodes of other seeds, and
other levels if there are any, than it is judged on. Every model is judged on the same play, which
no model chose: random actions held for a while, from places along demos.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamerv3.models import Agent
from dreamerv3.networks import State, centered
from dreamerv3.recurrence import no_noise
from mario_cli import UsageError
from mario_config import EnvConfig, in_process
from mario_curriculum import AnywhereStarts
from mario_demos import load_demos
from mario_game import StageId, stages_text
from mario_runtime import MarioVectorEnv
from mario_scene import CELL_PX, COLUMNS, ROWS, read_scene
from mario_scene_grid import DX, DY, ENEMIES, THING, THINGS, Thing, scene_grid
from mario_starts import Starts

FORETOLD = 15  # steps of an open loop
FIRST_SEEN = 8  # steps that a state has seen before an open loop begins
LOOPS_APART = 16  # steps between two beginnings of open loops
HELD = (2, 12)  # agent steps that an action is held for: at least, less than
PICTURE_PX = 32  # of the pictures that the other probe reads, at most
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the ridge, times the features' mean square
THRESHOLDS = np.linspace(0.05, 0.9, 18)
NEAR_CELLS = 1  # a thing is found if one of its class is told at most so many cells away
CELLS = ROWS * COLUMNS
DEMOS = Path(__file__).resolve().parents[1] / "demos"
FITTED_SEED, JUDGED_SEED = 7_000_000, 8_000_000  # no training's and no evaluation's
GROUPS = {"all but Mario": tuple(Thing)[2:], "enemies": ENEMIES}


@dataclasses.dataclass(frozen=True)
class Look:
    """On what a probe is fitted and judged."""

    fit_stages: tuple[StageId, ...]
    judge_stages: tuple[StageId, ...]
    demos: Path | None = None  # along which episodes begin; None: at the levels' starts alone
    envs: int = 16
    length: int = 64  # agent steps of a sequence
    fit_rounds: int = 12  # times envs sequences
    judge_rounds: int = 6
    seed: int = 0


class Play(NamedTuple):
    """Sequences of play. What stands at t led to, or came with, the image at t."""

    image: Tensor  # uint8[T, B, C, H, W]
    action: Tensor  # int64[T, B]
    is_first: Tensor  # bool[T, B]
    grid: Tensor  # int8[T, B, PLANES, ROWS, COLUMNS]


class Seen(NamedTuple):
    """What there is to tell from, and what was there, of N moments."""

    features: Tensor  # [N, F]
    picture: Tensor  # [N, P], the newest one that was seen, in [-0.5, 0.5]
    grid: Tensor  # int8[N, PLANES, ROWS, COLUMNS]
    ahead: Tensor  # int64[N], imagined steps since then; 0: at once


# --------------------------------------------------------------------------------------------
# Play
# --------------------------------------------------------------------------------------------


def starts_of(env: EnvConfig, demos: Path | None) -> Starts | None:
    """Return starts along the demos of env's stages, and at the levels' starts; None: those."""
    if demos is None:
        return None
    return AnywhereStarts(env, load_demos(demos, env.stages))


def play_at_random(env: EnvConfig, look: Look, rounds: int, seed: int) -> Iterator[Play]:
    """Yield rounds of play in env's stages: random actions, each held for a while.

    It depends on env, look and seed alone, not on a model.
    """
    config = dataclasses.replace(
        in_process(env, "fast"), n_envs=look.envs, sticky_prob=0.0, max_episode_steps=0
    )
    venv = MarioVectorEnv(config, starts=starts_of(config, look.demos))
    rng = np.random.default_rng([seed, 3])
    actions = np.zeros(look.envs, np.int64)
    held = np.zeros(look.envs, np.int64)  # steps that the action is still held for
    images, _ = venv.reset(seed=seed)
    is_first = np.ones(look.envs, dtype=bool)
    for _ in range(rounds):
        parts: list[tuple[np.ndarray, ...]] = []
        for _ in range(look.length):
            grid = scene_grid(read_scene(venv.machines.ram_before))
            parts.append((images.copy(), actions.copy(), is_first, grid))
            fresh = held == 0
            actions = np.where(fresh, rng.integers(0, len(venv.buttons), look.envs), actions)
            held = np.where(fresh, rng.integers(*HELD, look.envs), held) - 1
            images, _, terminations, truncations, _ = venv.step(actions)
            is_first = terminations | truncations
        yield Play(*(torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True)))


# --------------------------------------------------------------------------------------------
# What a model makes of it
# --------------------------------------------------------------------------------------------


def small(images: Tensor) -> Tensor:
    """Return uint8 images [N, C, H, W] as [N, P], shrunk to at most `PICTURE_PX` px."""
    factor = max(1, -(-images.shape[-1] // PICTURE_PX))
    return F.avg_pool2d(centered(images), factor).flatten(1)


@torch.no_grad()
def follow(agent: Agent, play: Play, foretells: bool = True) -> Iterator[Seen]:
    """Yield what an agent's model believes at each step of play, and foretells from some of them.

    States are modes, not samples: no random number is drawn.
    """
    world, rssm = agent.world, agent.world.rssm
    steps, batch = play.action.shape
    table, weights = rssm.action_table(), rssm.weights()
    noise = no_noise(batch, rssm.stoch, rssm.classes)
    state = rssm.initial_state(batch)
    is_first = play.is_first.clone()
    is_first[0] = True  # what was before is not known

    def inputs(t: int) -> Tensor:
        return table[torch.where(is_first[t], rssm.n_actions, play.action[t])]

    for t in range(steps):
        keep = (~is_first[t]).float().unsqueeze(-1)
        tokens = world.encoder(centered(play.image[t]))
        before = State(state.deter * keep, state.stoch * keep)
        state = rssm.observe_step(before, tokens, inputs(t), noise)
        picture = small(play.image[t])
        yield Seen(state.features, picture, play.grid[t], torch.zeros(batch, dtype=torch.int64))
        begins = t >= FIRST_SEEN and t % LOOPS_APART == FIRST_SEEN and t + FORETOLD < steps
        if not (foretells and begins):
            continue
        dreamt, goes_on = state, torch.ones(batch, dtype=torch.bool)
        for ahead in range(1, FORETOLD + 1):
            goes_on = goes_on & ~is_first[t + ahead]
            dreamt = rssm.imagine_step(weights, dreamt, inputs(t + ahead), noise)
            count = int(goes_on.sum())
            yield Seen(
                dreamt.features[goes_on],
                picture[goes_on],
                play.grid[t + ahead][goes_on],
                torch.full((count,), ahead),
            )


def joined(parts: Sequence[Seen]) -> Seen:
    """Return several as one."""
    return Seen(*(torch.cat(column) for column in zip(*parts, strict=True)))


def where(grid: Tensor) -> Tensor:
    """Return bool[N, THINGS, ROWS, COLUMNS], whether a thing of each class is in a cell."""
    things = grid[:, THING].long()
    return F.one_hot(things, THINGS).permute(0, 3, 1, 2).bool()


# --------------------------------------------------------------------------------------------
# The probe
# --------------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """A linear reading of features: scores of each class in each cell, and what counts as one."""

    weights: Tensor  # [F + 1, THINGS * CELLS], the last row is the bias
    thresholds: Tensor  # [THINGS]

    def tell(self, features: Tensor) -> Tensor:
        """Return bool[N, THINGS, ROWS, COLUMNS]: where a score is high, and highest around."""
        scores = scores_of(self.weights, features)
        highest = F.max_pool2d(scores, 3, stride=1, padding=1)
        told = (scores >= self.thresholds[:, None, None]) & (scores == highest)
        told[:, Thing.NOTHING] = False
        return told


def with_bias(features: Tensor) -> Tensor:
    """[N, F] -> [N, F + 1]."""
    return torch.cat([features, torch.ones(len(features), 1)], 1)


def scores_of(weights: Tensor, features: Tensor) -> Tensor:
    """Return [N, THINGS, ROWS, COLUMNS], near 1 where a thing is thought to be."""
    return (with_bias(features) @ weights).view(-1, THINGS, ROWS, COLUMNS)


def ridge(features: Tensor, targets: Tensor, strengths: Sequence[float]) -> list[Tensor]:
    """Return the weights [F + 1, K] of a ridge regression for each strength; the bias is free.

    Args:
        features: [N, F].
        targets: [N, K].
        strengths: times the features' mean square times N.
    """
    inputs = with_bias(features)
    gram, moments = (inputs.T @ inputs).double(), (inputs.T @ targets).double()
    scale = gram.diagonal()[:-1].mean()
    found = []
    for strength in strengths:
        penalty = torch.full((len(gram),), float(strength * scale), dtype=torch.float64)
        penalty[-1] = 1e-9 * scale
        found.append(torch.linalg.solve(gram + torch.diag(penalty), moments).float())
    return found


def fit(features: Tensor, grid: Tensor) -> Probe:
    """Return the probe of features [N, F] for what was there, int8[N, PLANES, ROWS, COLUMNS].

    The last quarter of them chooses strength and thresholds, by F1 within a cell.
    """
    there = where(grid)
    split = len(features) * 3 // 4
    candidates = ridge(features[:split], there[:split].flatten(1).float(), STRENGTHS)
    chosen, best_total = None, -1.0
    for weights in candidates:
        thresholds, scores = best_thresholds(weights, features[split:], there[split:])
        if scores.sum() > best_total:
            best_total, chosen = float(scores.sum()), Probe(weights, thresholds)
    assert chosen is not None
    return chosen


def best_thresholds(weights: Tensor, features: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return the thresholds of highest F1, and that F1, [THINGS]; 1 and 0 where nothing is."""
    best = torch.ones(THINGS), torch.zeros(THINGS)
    near = spread(there)
    scores = scores_of(weights, features)
    peaks = scores == F.max_pool2d(scores, 3, stride=1, padding=1)
    for threshold in THRESHOLDS.tolist():
        told = peaks & (scores >= threshold)
        hits = (there & spread(told)).sum((0, 2, 3)).float()
        right = (told & near).sum((0, 2, 3)).float()
        recall = hits / there.sum((0, 2, 3)).clamp(min=1)
        precision = right / told.sum((0, 2, 3)).clamp(min=1)
        f1 = 2 * recall * precision / (recall + precision).clamp(min=1e-9)
        better = f1 > best[1]
        best[0][better], best[1][better] = threshold, f1[better]
    return best


def spread(cells: Tensor) -> Tensor:
    """Return bool[..., ROWS, COLUMNS]: within `NEAR_CELLS` of a cell that is true."""
    return F.max_pool2d(cells.float(), 2 * NEAR_CELLS + 1, stride=1, padding=NEAR_CELLS) > 0


# --------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """How well things of a class are told."""

    things: int  # that were there
    told: int
    recall: float | None  # share of the things that one was told near; None: there were none
    precision: float | None  # share of what was told that a thing is near; None: nothing was told
    place_px: float | None  # from what was told to the thing, in the mean of those found


def figures(told: Tensor, grid: Tensor) -> dict[str, Figures]:
    """Return the figures of each class that is there or told, and of `GROUPS`.

    Args:
        told: bool[N, THINGS, ROWS, COLUMNS].
        grid: int8[N, PLANES, ROWS, COLUMNS].
    """
    there = where(grid)
    counts: dict[Thing, tuple[int, int, int, int, float]] = {}
    for thing in tuple(Thing)[1:]:
        is_there, is_told = there[:, thing], told[:, thing]
        found = is_there & spread(is_told)
        right = is_told & spread(is_there)
        error = float(place_errors(is_told, found, grid).sum())
        numbers = (is_there.sum(), is_told.sum(), found.sum(), right.sum())
        counts[thing] = (*(int(number) for number in numbers), error)  # type: ignore[assignment]
    groups = {thing.name.lower().replace("_", "-"): (thing,) for thing in counts} | GROUPS
    summed = {
        name: [sum(column) for column in zip(*(counts[thing] for thing in group), strict=True)]
        for name, group in groups.items()
    }
    return {
        name: Figures(
            things=int(things),
            told=int(number),
            recall=found / things if things else None,
            precision=right / number if number else None,
            place_px=error / found if found else None,
        )
        for name, (things, number, found, right, error) in summed.items()
        if things or number
    }


def place_errors(told: Tensor, found: Tensor, grid: Tensor) -> Tensor:
    """Return px from each thing that was found to the nearest cell's centre that was told, [K].

    Args:
        told: bool[N, ROWS, COLUMNS], of a class.
        found: bool[N, ROWS, COLUMNS], the things of it that one was told near.
        grid: int8[N, PLANES, ROWS, COLUMNS].
    """
    n, row, column = found.nonzero(as_tuple=True)
    dx, dy = (grid[n, plane, row, column].float() for plane in (DX, DY))
    nearest = torch.full((len(n),), torch.inf)
    around = range(-NEAR_CELLS, NEAR_CELLS + 1)
    padded = F.pad(told, (NEAR_CELLS,) * 4)
    for down in around:
        for right in around:
            is_told = padded[n, row + NEAR_CELLS + down, column + NEAR_CELLS + right]
            px = torch.hypot(right * CELL_PX - dx, down * CELL_PX - dy)
            nearest = torch.where(is_told, torch.minimum(nearest, px), nearest)
    return nearest


def look_at(agent: Agent, env: EnvConfig, look: Look) -> dict[str, Any]:
    """Return the table that says what an agent's model sees and foretells.

    Returns:
        what it was fitted and judged on, and of each reading ("latent", "foretold",
        "foretold_1-5", ..., "pixels", "pixels_foretold", "empty") the `Figures` by class, as plain
        values. "pixels" reads the shrunk picture; foretold, the last one that was seen.

    Raises:
        UsageError: a stage has no demo, or nothing could be seen.
    """

    def seen(stages: tuple[StageId, ...], rounds: int, seed: int, foretells: bool) -> Seen:
        there = dataclasses.replace(env, stages=stages, goal_line_x=None)
        plays = play_at_random(there, look, rounds, seed + look.seed)
        return joined([one for play in plays for one in follow(agent, play, foretells)])

    fitted = seen(look.fit_stages, look.fit_rounds, FITTED_SEED, foretells=False)
    judged = seen(look.judge_stages, look.judge_rounds, JUDGED_SEED, foretells=True)
    if not (judged.ahead > 0).any():
        raise UsageError(f"a sequence needs more than {FIRST_SEEN + FORETOLD} steps")
    found: dict[str, Any] = {
        "fit_stages": stages_text(look.fit_stages),
        "judge_stages": stages_text(look.judge_stages),
        "fitted_on": len(fitted.ahead),
        "judged_on": int((judged.ahead == 0).sum()),
        "foretold_on": int((judged.ahead > 0).sum()),
    }
    third = FORETOLD // 3
    spans = {"foretold": (1, FORETOLD)}
    spans |= {
        f"foretold_{a}-{a + third - 1}": (a, a + third - 1) for a in range(1, FORETOLD, third)
    }
    for reading, column in (("latent", "features"), ("pixels", "picture")):
        probe = fit(getattr(fitted, column), fitted.grid)
        told = probe.tell(getattr(judged, column))
        before = "" if reading == "latent" else f"{reading}_"
        named = {reading: (0, 0)} | {f"{before}{span}": steps for span, steps in spans.items()}
        for name, (least, most) in named.items():
            chosen = (judged.ahead >= least) & (judged.ahead <= most)
            found[name] = as_plain(figures(told[chosen], judged.grid[chosen]))
    now = judged.ahead == 0
    nothing = torch.zeros(int(now.sum()), THINGS, ROWS, COLUMNS, dtype=torch.bool)
    found["empty"] = as_plain(figures(nothing, judged.grid[now]))
    return found


def shares(found: dict[str, Any]) -> dict[str, float]:
    """Return the figures of `look_at` that decide, as metrics by name: of all things but Mario."""
    metrics = {}
    for reading in ("latent", "foretold"):
        numbers = found[reading].get("all but Mario", {})
        for name in ("recall", "precision", "place_px"):
            if numbers.get(name) is not None:
                metrics[f"dreamer/{reading}_{name}"] = float(numbers[name])
    return metrics


def as_plain(found: dict[str, Figures]) -> dict[str, dict[str, float | int | None]]:
    """Return figures as JSON holds them."""
    return {name: one._asdict() for name, one in found.items()}


def table_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the table in Markdown: recall, precision and place error of each class and reading."""
    readings = ("latent", "foretold", "pixels", "pixels_foretold", "empty")
    names = {"foretold": f"foretold, {FORETOLD} steps", "pixels_foretold": "pixels, last seen"}
    heads = [names.get(reading, reading) for reading in readings]
    yield (
        f"Fitted on {found['fitted_on']:,} moments of {found['fit_stages']}, judged on "
        f"{found['judged_on']:,} and {found['foretold_on']:,} foretold ones of "
        f"{found['judge_stages']}, other seeds. Recall / precision / place error in px."
    )
    yield ""
    yield "| thing | there | " + " | ".join(heads) + " |"
    yield "|---|---|" + "---|" * len(heads)
    for thing, numbers in found["latent"].items():
        cells = [one_cell(found[reading].get(thing)) for reading in readings]
        yield f"| {thing} | {numbers['things']:,} | " + " | ".join(cells) + " |"


def one_cell(numbers: dict[str, Any] | None) -> str:
    """Return a table's cell of `Figures` as plain values."""
    if numbers is None:
        return ""
    shares = [numbers["recall"], numbers["precision"]]
    words = ["-" if share is None else f"{100 * share:.0f} %" for share in shares]
    px = numbers["place_px"]
    return " / ".join([*words, "-" if px is None else f"{px:.1f}"])
