"""The ladder's losses by hand, and what each of them teaches a model, and what not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from dreamerv3.exploration import ExplorationConfig
from dreamerv3.losses import Harmony, redundancy_loss, sprite_weights
from dreamerv3.models import Agent, Batch, ModelConfig
from dreamerv3.networks import centered
from dreamerv3.scene_head import MOVING, SceneHead, focal, scaled_gradient, scene_loss
from fastnes.ram import OAM_SHADOW
from fastnes.state import RAM_SIZE
from mario_scene import COLUMNS, ROWS, TILES, Tile
from mario_scene_grid import DX, PLANES, THING, THINGS, TILE, VX, Thing, sprite_mask
from tests.test_dreamer_models import IMAGE, N_ACTIONS, TINY, make_batch


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make_agent(**changes: Any) -> Agent:
    config: ModelConfig = dataclasses.replace(TINY, **changes)
    return Agent(config, ExplorationConfig(), IMAGE, N_ACTIONS)


def with_targets(batch: Batch) -> Batch:
    """Return a batch with a walker in every picture, and sprites on an eighth of it."""
    scene = torch.zeros(*batch.action.shape, PLANES, ROWS, COLUMNS, dtype=torch.int8)
    scene[:, :, TILE] = Tile.EMPTY
    scene[:, :, THING, 9, 7] = Thing.WALKER
    sprites = torch.zeros(*batch.action.shape, *IMAGE[1:], dtype=torch.bool)
    sprites[:, :, :4] = True
    return batch._replace(scene=scene, sprites=sprites)


def gradients_of(agent: Agent, batch: Batch, *names: str) -> dict[str, bool]:
    """Return whether the model's losses of these names move its parts."""
    images = centered(batch.image.flatten(0, 1))
    observed = agent.world.observe(batch, images)
    losses, _ = agent.world.losses(batch, images, observed)
    agent.zero_grad()
    torch.stack([losses[name] for name in names]).sum().backward()
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in agent.world.named_children()
    }


# -- what the game says is a sprite ------------------------------------------------------------


def test_sprites_have_their_share_of_the_weight_and_a_picture_its_whole() -> None:
    sprites = torch.zeros(3, 4, 4, dtype=torch.bool)
    sprites[0, 0, :2] = True
    sprites[2] = True
    weights = sprite_weights(sprites, 0.4)
    assert weights[0, 0, 0] == pytest.approx(0.4 * 16 / 2)
    assert weights[0, 3, 3] == pytest.approx(0.6 * 16 / 14)
    assert weights.mean((1, 2)).tolist() == pytest.approx([1, 1, 1])
    assert (weights[1] == 1).all()
    assert (weights[2] == 1).all()


def test_an_error_on_a_sprite_costs_more_than_one_beside_it() -> None:
    agent, batch = make_agent(sprite_share=0.5), with_targets(make_batch())

    def image_loss(row: int) -> float:
        torch.manual_seed(1)
        images = centered(batch.image.flatten(0, 1))
        observed = agent.world.observe(batch, images)
        images[:, :, row] += 3
        features, tokens = observed.features.flatten(0, 1), observed.tokens.flatten(0, 1)
        assert batch.sprites is not None
        found = agent.world.picture_losses(images, tokens, features, batch.sprites.flatten(0, 1))
        return found["image"].item()

    assert image_loss(1) > 2 * image_loss(20)


def test_a_sprite_is_where_the_games_list_has_it() -> None:
    ram = np.zeros((1, RAM_SIZE), np.uint8)
    oam = ram[0, OAM_SHADOW:].reshape(-1)[: 64 * 4].reshape(64, 4)
    oam[:, 0] = 0xF8  # not on the screen
    assert not sprite_mask(ram, 64, (0, 240)).any()
    oam[0] = (24, 0, 0, 88)  # the status bar's
    assert not sprite_mask(ram, 64, (0, 240)).any()
    oam[5] = (119, 0, 0, 100)  # drawn at lines 120 to 127
    [whole] = sprite_mask(ram, 240, (0, 240))
    rows, columns = np.nonzero(whole)
    assert (rows.min(), rows.max()) == (118, 129)
    assert columns.min() == pytest.approx(98 * 240 / 256, abs=1)
    [cropped] = sprite_mask(ram, 64, (32, 224))
    rows = np.nonzero(cropped)[0]
    assert (rows.min(), rows.max()) == ((118 - 32) // 3, (129 - 32) // 3)


# -- the head that tells the scene -------------------------------------------------------------


def test_what_is_told_well_counts_little() -> None:
    logits = torch.tensor([[2.0, 0.0], [-2.0, 0.0]]).view(2, 2, 1, 1)
    loss = focal(logits, torch.zeros(2, 1, 1, dtype=torch.int64)).flatten()
    for value, logit in zip(loss.tolist(), (2.0, -2.0), strict=True):
        p = 1 / (1 + math.exp(-logit))
        assert value == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-5)


def test_one_thing_among_two_hundred_cells_weighs_as_much_as_all_the_others() -> None:
    grid = torch.zeros(1, PLANES, ROWS, COLUMNS, dtype=torch.int8)
    grid[:, TILE] = Tile.EMPTY
    grid[0, THING, 9, 7], grid[0, DX, 9, 7], grid[0, VX, 9, 7] = Thing.PLANT, 4, -16
    told = torch.zeros(1, THINGS + TILES + MOVING, ROWS, COLUMNS)
    flat, _ = scene_loss(told, grid)
    told[:, 0] = 9.0  # all empty, surely
    blind, metrics = scene_loss(told, grid)
    assert metrics["dreamer/things_named"] == 0
    assert blind["scene_things"] > flat["scene_things"] > 0
    told[0, 0, 9, 7], told[0, Thing.PLANT, 9, 7] = 0.0, 9.0
    told[0, -4, 9, 7], told[0, -2, 9, 7] = 4 / 8, -16 / 32
    told[:, THINGS + Tile.EMPTY] = 9.0
    right, metrics = scene_loss(told, grid)
    assert metrics["dreamer/things_named"] == 1
    assert sum(right.values()).item() < 1e-3  # type: ignore[union-attr]
    told[0, -4, 9, 7] = 1.5  # 8 px too far: 1, of two numbers, in a loss that is linear from 1 on
    wrong, _ = scene_loss(told, grid)
    assert wrong["scene_places"].item() == pytest.approx(0.5)
    grid[:, TILE] = Tile.UNKNOWN  # beyond the screen
    unknown, _ = scene_loss(torch.zeros_like(told), grid)
    assert unknown["scene_tiles"] == 0


def test_some_states_tell_picture_and_scene_and_over_draws_as_much_as_all() -> None:
    torch.manual_seed(0)
    few = make_agent(told_states=5, scene_head="informed", sprite_share=0.3)
    every = make_agent(scene_head="informed", sprite_share=0.3)
    every.load_state_dict(few.state_dict())
    batch = with_targets(make_batch())
    images = centered(batch.image.flatten(0, 1))
    observed = every.world.observe(batch, images)
    with torch.no_grad():
        whole, _ = every.world.losses(batch, images, observed)
        draws = [few.world.losses(batch, images, observed)[0] for _ in range(400)]
    assert len({draw["image"].item() for draw in draws}) > 100
    mean = sum(draw["image"].item() for draw in draws) / len(draws)
    assert mean == pytest.approx(whole["image"].item(), rel=0.02)
    assert all(torch.equal(draw["reward"], whole["reward"]) for draw in draws)


def test_the_head_gives_a_grid_and_a_scaled_gradient() -> None:
    assert SceneHead(20, 8)(torch.randn(3, 20)).shape == (
        *(3, THINGS + TILES + MOVING),
        *(ROWS, COLUMNS),
    )
    x = torch.randn(5, requires_grad=True)
    for scale in (1.0, 0.25):
        [gradient] = torch.autograd.grad(scaled_gradient(x, scale).sum(), x)
        assert gradient.tolist() == [scale] * 5
    assert torch.equal(scaled_gradient(x, 0.5), x)
    assert not scaled_gradient(x, 0.0).requires_grad


def test_an_informed_model_learns_from_the_scene_and_the_control_does_not() -> None:
    batch = with_targets(make_batch())
    names = ("scene_things", "scene_tiles", "scene_places", "scene_speeds")
    moved = gradients_of(make_agent(scene_head="informed"), batch, *names)
    assert moved["scene"]
    assert moved["encoder"]
    assert moved["rssm"]
    moved = gradients_of(make_agent(scene_head="detached"), batch, *names)
    assert moved.pop("scene")
    assert not any(moved.values())


# -- without a decoder, and in balance ---------------------------------------------------------


def test_redundancy_by_hand() -> None:
    """Two features of four states: correlations 1 and -0.5 on the diagonal, and off it."""
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert redundancy_loss(one, one, 0.5).item() == pytest.approx(2 * (1 - 0.75) ** 2, rel=1e-4)
    swapped = redundancy_loss(one, one.flip(1), 0.5).item()
    assert swapped == pytest.approx(2 * 1 + 0.5 * 2 * 0.75**2, rel=1e-4)


def test_a_model_without_a_decoder_learns_its_encoder_through_the_state_alone() -> None:
    agent, batch = make_agent(picture="redundancy"), make_batch()
    assert not hasattr(agent.world, "decoder")
    moved = gradients_of(agent, batch, "redundancy")
    assert moved["projection"]
    assert moved["encoder"]
    tokens = torch.randn(8, 6, requires_grad=True)
    redundancy_loss(torch.randn(8, 6, requires_grad=True), tokens, 1.0).backward()
    assert tokens.grad is None


def test_harmony_divides_a_loss_by_what_it_is_near() -> None:
    harmony = Harmony()
    losses = {"image": torch.tensor(50.0), "reward": torch.tensor(0.1), "value": torch.tensor(3.0)}
    balanced, metrics = harmony(losses)
    assert balanced["image"] == 50
    assert balanced["value"] == 3
    assert balanced["harmony"].item() == pytest.approx(2 * math.log(2))
    assert metrics["dreamer/sigma_picture"] == 1
    optimizer = torch.optim.Adam(harmony.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(list(harmony(losses)[0].values())).sum().backward()
        optimizer.step()
    balanced, metrics = harmony(losses)
    sigma = metrics["dreamer/sigma_picture"].item()
    assert 50 / sigma**2 == pytest.approx(1 / (1 + sigma), rel=0.05)  # where the price is least
    assert 0.9 < balanced["image"] < 1.1
    assert metrics["dreamer/sigma_reward"] < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"scene_head": "informed", "picture": "none"},
        {"scene_head": "informed", "sprite_share": 0.4, "harmony": True},
        {"picture": "redundancy", "harmony": True},
    ],
)
def test_an_update_takes_each_of_them(changes: dict[str, Any]) -> None:
    agent, batch = make_agent(**changes), with_targets(make_batch())
    optimizer = agent.make_optimizer()
    before = [p.detach().clone() for p in agent.world.encoder.parameters()]
    for _ in range(3):
        metrics = agent.update(batch, optimizer)
    assert all(torch.isfinite(value) for value in metrics.values())
    moved = zip(before, agent.world.encoder.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in moved)
    if "picture" in changes:
        assert "dreamer/image_loss" not in metrics


def test_what_is_off_changes_no_bit() -> None:
    """The weights that a model begins with, and what it learns if targets lie beside a batch."""
    results = []
    for batch in (make_batch(), with_targets(make_batch())):
        torch.manual_seed(3)
        agent = make_agent()
        plain = make_batch()
        torch.manual_seed(4)
        images = batch._replace(image=plain.image, action=plain.action, reward=plain.reward)
        agent.update(images, agent.make_optimizer())
        results.append([p.detach().clone() for p in agent.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    torch.manual_seed(3)
    informed = make_agent(scene_head="informed", harmony=True)
    torch.manual_seed(3)
    usual = make_agent()
    for name, weight in usual.world.state_dict().items():
        assert torch.equal(weight, informed.world.state_dict()[name]), name
