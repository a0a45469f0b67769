"""What happens beside what a model sees and thinks: the real screen, its picture, its things.

A replay holds no screens. An episode from a level's start depends on its actions and on how many
frames Mario waited, so it is played again for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from dreamerv3.models import Agent
from dreamerv3.networks import centered
from dreamerv3.recurrence import no_noise
from dreamerv3.scene_head import OFFSET_PX
from mario_config import EnvConfig, in_process
from mario_game import GameFacts, StageId
from mario_runtime import MarioVectorEnv
from mario_scene import CELL_PX, TILE_TOP, read_scene
from mario_scene_grid import THINGS, Thing
from mario_scene_picture import ENEMY, FRIEND, LIFT, MARIO

Color = tuple[int, int, int]

PANEL_PX = 240  # height of everything that stands side by side: the real screen's
SEEN_STEPS = 8  # of an open-loop prediction's sequence
SEEN_COLOR: Color = (0, 200, 0)  # of the bar above what the model sees
COLORS: dict[Thing, Color] = {
    Thing.MARIO: MARIO,
    Thing.LIFT: LIFT,
    Thing.POWER_UP: FRIEND,
    Thing.OTHER: FRIEND,
}


class Views(NamedTuple):
    """An episode as a person sees it, T steps."""

    screens: np.ndarray  # uint8[T, 240, 256, 3]
    left: np.ndarray  # int64[T], px from the screen's left edge to the grid's

    def part(self, start: int, length: int) -> Views:
        """Return some of its steps."""
        return Views(*(column[start : start + length] for column in self))


class Told(NamedTuple):
    """What a head tells of T steps."""

    thing: np.ndarray  # int64[T, ROWS, COLUMNS], a Thing each
    offset: np.ndarray  # float32[T, 2, ROWS, COLUMNS], px of its centre from the cell's, x and y


# --------------------------------------------------------------------------------------------
# The real screen
# --------------------------------------------------------------------------------------------


def can_show_screens(config: EnvConfig) -> bool:
    """Return whether episodes can be played again for their screens; a line says why not."""
    if config.sticky_prob:
        print("without the real screen: no replay says which of its buttons stuck")
    return not config.sticky_prob


def views_of(rows: np.ndarray, config: EnvConfig) -> Views | None:
    """Return what an episode of the replay looked like; None if it cannot be played again.

    That are: one that began on the way, one with sticky buttons (`can_show_screens`), or of other
    sizes of picture.

    Args:
        rows: [T], all of the episode's, from its first on.
        config: under which it was played.
    """
    if config.sticky_prob or not rows["is_first"][0]:
        return None
    facts = GameFacts(*rows["facts"].T)
    stage = StageId(*(int(number) for number in (facts.world[0], facts.stage[0])))
    found = _noops_of(rows, config, stage)
    if found is None:
        return None
    env = _env(config, stage, 1)
    env.reset(seed=0, options={"noops": found, "stage": str(stage)})
    screens, left = [env.render()[0]], [_left_of(env)]
    for action in rows["action"][1:].astype(np.int64):
        env.step(np.array([action]))
        screens.append(env.render()[0])
        left.append(_left_of(env))
    return Views(np.stack(screens), np.array(left))


def _env(config: EnvConfig, stage: StageId, n: int) -> MarioVectorEnv:
    plain = dataclasses.replace(in_process(config, "fast"), stages=(stage,), n_envs=n)
    return MarioVectorEnv(plain, autoreset=False)


def _left_of(env: MarioVectorEnv) -> int:
    """Return how far right of the screen's left edge the first environment's grid begins, px."""
    return int(read_scene(env.machines.ram_before[:1]).left[0])


def _noops_of(rows: np.ndarray, config: EnvConfig, stage: StageId) -> int | None:
    """Return how many frames Mario waited before an episode; None: after none it is the same."""
    n = config.noop_max or 1
    env = _env(config, stage, n)
    noops = np.arange(1, n + 1) if config.noop_max else np.zeros(1, np.int64)
    images, _ = env.reset(seed=0, options={"noops": noops, "stage": str(stage)})
    alike = (images == rows["image"][0]).all((1, 2, 3))
    over = np.zeros(n, dtype=bool)
    for row in rows[1:]:
        if not alike.any():
            return None
        if over.any():  # one that is not alike any more: play on somewhere
            env.reset(options={"reset_mask": over, "noops": noops, "stage": str(stage)})
            alike &= ~over
        images, _, terminations, truncations, _ = env.step(np.full(n, row["action"], np.int64))
        alike &= (images == row["image"]).all((1, 2, 3))
        over = terminations | truncations
    return int(noops[alike.argmax()]) if alike.any() else None


# --------------------------------------------------------------------------------------------
# What a model sees, dreams and tells
# --------------------------------------------------------------------------------------------


@torch.no_grad()
def states_of(agent: Agent, rows: np.ndarray, seen: int) -> Tensor:
    """Return features [T, F] of rows [T]: seen ones first, then dreamt under the rows' actions."""
    world, rssm = agent.world, agent.world.rssm
    images = torch.from_numpy(rows["image"].copy())  # [T, C, H, W]
    actions = rows["action"].astype(np.int64)
    tokens = world.encoder(centered(images[:seen]))  # [seen, tokens]
    table, weights = rssm.action_table(), rssm.weights()
    noise = no_noise(1, rssm.stoch, rssm.classes)
    state = rssm.initial_state(1)
    features = []
    for t in range(len(rows)):
        action = table[rssm.n_actions if t == 0 else int(actions[t])][None]
        if t < seen:
            state = rssm.observe_step(state, tokens[t : t + 1], action, noise)
        else:
            state = rssm.imagine_step(weights, state, action, noise)
        features.append(state.features)
    return torch.cat(features)


@torch.no_grad()
def told_of(agent: Agent, features: Tensor) -> Told | None:
    """Return what an agent's head tells of states [T, F]; None: it has no head."""
    if agent.config.scene_head == "none":
        return None
    told = agent.world.scene(features)
    things = told[:, :THINGS].argmax(1)
    return Told(things.numpy(), (OFFSET_PX * told[:, -4:-2]).numpy())


@torch.no_grad()
def drawn_by(agent: Agent, features: Tensor) -> np.ndarray | None:
    """Return the pictures uint8[T, C, H, W] that an agent's model draws; None: it draws none."""
    if agent.config.picture != "decoder":
        return None
    decoder = agent.world.decoder
    return (decoder.to_images(decoder(features)) * 255).byte().numpy()


def as_rgb(images: np.ndarray, config: EnvConfig) -> np.ndarray:
    """Return the newest screens of observations uint8[T, C, H, W] as uint8[T, H, W, 3]."""
    newest = images[:, -config.planes :].transpose(0, 2, 3, 1)
    return np.broadcast_to(newest, (*newest.shape[:3], 3))


def as_panel(picture: np.ndarray) -> np.ndarray:
    """Return a picture, uint8[H, W, 3], as high as the real screen; each pixel stays one."""
    width = round(picture.shape[1] * PANEL_PX / picture.shape[0])
    large = np.ascontiguousarray(picture)
    return cv2.resize(large, (width, PANEL_PX), interpolation=cv2.INTER_NEAREST)


def draw_things(screen: np.ndarray, told: Told, t: int, left: int) -> np.ndarray:
    """Return a copy of a screen with a box around each thing that a head tells of step t.

    Args:
        screen: uint8[240, 256, 3].
        told: what the head says of T steps.
        t: which.
        left: px from the screen's left edge to the grid's.
    """
    picture = np.ascontiguousarray(screen).copy()
    for row, column in np.argwhere(told.thing[t] != Thing.NOTHING).tolist():
        thing = Thing(int(told.thing[t, row, column]))
        dx, dy = told.offset[t, :, row, column].clip(-CELL_PX, CELL_PX)
        x = round(left + column * CELL_PX + float(dx))
        y = round(TILE_TOP + row * CELL_PX + float(dy))
        color = COLORS.get(thing, ENEMY)
        cv2.rectangle(picture, (x, y), (x + CELL_PX - 1, y + CELL_PX - 1), color, 1)
        name = thing.name.lower().replace("_", " ")
        cv2.putText(picture, name, (x, y - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.3, color, 1)
    return picture


def side_by_side(
    agent: Agent, rows: np.ndarray, config: EnvConfig, views: Views | None, seen: int
) -> Iterator[np.ndarray]:
    """Yield a frame uint8[240, W, 3] a step, from left to right as far as there is such a thing.

    The real screen with what the head tells; what the model sees; what it draws, and the
    difference. A green bar is above what it draws of pictures that it has seen.

    Args:
        agent: whose model it is.
        rows: [T], of a replay.
        config: under which they were played.
        views: of the same steps, if they are known.
        seen: steps that it sees before it dreams on.
    """
    features = states_of(agent, rows, seen)
    told, drawn = told_of(agent, features), drawn_by(agent, features)
    truth = as_rgb(rows["image"], config)
    dreamt = None if drawn is None else as_rgb(drawn, config)
    black = np.zeros((PANEL_PX, 256, 3), np.uint8)
    for t in range(len(rows)):
        panels = []
        if views is not None or told is not None:
            screen, left = (black, 0) if views is None else (views.screens[t], int(views.left[t]))
            panels.append(screen if told is None else draw_things(screen, told, t, left))
        panels.append(as_panel(truth[t]))
        if dreamt is not None:
            difference = np.abs(truth[t].astype(np.int16) - dreamt[t]).astype(np.uint8)
            for picture in (dreamt[t], difference):
                panels.append(as_panel(picture))
            if t < seen:
                panels[-2][:6] = SEEN_COLOR
        yield np.concatenate(panels, axis=1)


def sheet_png(frames: list[np.ndarray]) -> bytes:
    """Return a PNG of frames, one below the other."""
    sheet = np.concatenate(frames, axis=0)
    done, content = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert done
    return content.tobytes()
