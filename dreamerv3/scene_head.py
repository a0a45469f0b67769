"""A head that tells the scene from the latent state: a target in training, never an input.

"Informed POMDP" (Lambrechts, Bolland and Ernst 2024, arXiv:2306.11488) and "Privileged sensing
scaffolds reinforcement learning" (Hu et al. 2024, arXiv:2405.14853): a simulator knows more than
its pictures show, and a model that has to tell it while it learns keeps it in its state. Here it
tells only what the screen shows, as `mario_scene_grid` lays it out; the policy acts on pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerv3.networks import ImageNormSiLU, Linear, init_conv
from mario_scene import COLUMNS, ROWS, TILES, Tile
from mario_scene_grid import DX, SPEED_UNITS, THING, THINGS, TILE, VY, Thing

FOCUS = 2.0  # gamma of the focal loss
SIDE = 16  # cells of the last feature map, of whose rows the first ROWS are the grid's
MOVING = 4  # offset and speed, x and y each
OFFSET_PX, SPEED_PX = 8.0, 2.0  # that count as 1 in the losses of place and speed


class SceneHead(nn.Module):
    """State to grid: of each cell the logits of its thing and of its tile, offset and speed."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.top = Linear(features, channels * (SIDE // 4) ** 2)
        layers: list[nn.Module] = [ImageNormSiLU(channels)]
        for _ in range(2):
            conv = nn.ConvTranspose2d(channels, channels, 4, 2, padding=1)
            init_conv(conv, channels * 4)
            layers += [conv, nn.SiLU()]
        last = nn.Conv2d(channels, THINGS + TILES + MOVING, 3, padding=1)
        init_conv(last, channels * 9)
        self.layers = nn.Sequential(*layers, last)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] -> float32[N, THINGS + TILES + MOVING, ROWS, COLUMNS]."""
        top = self.top(features).view(-1, SIDE // 4, SIDE // 4, self.channels)
        return self.layers(top.permute(0, 3, 1, 2))[:, :, :ROWS, :COLUMNS].float()


def scaled_gradient(x: Tensor, scale: float) -> Tensor:
    """Return x, whose gradient is scaled on the way back; 0: none comes through."""
    return x.detach() if scale == 0 else x.detach() + scale * (x - x.detach())


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Return the focal loss (Lin et al. 2017, arXiv:1708.02002) of each cell, [N, R, C].

    What is told well already counts little: most cells are empty, and soon known to be.

    Args:
        logits: [N, K, R, C].
        target: int64[N, R, C].
    """
    cross_entropy = F.cross_entropy(logits, target, reduction="none")
    return (1 - torch.exp(-cross_entropy)) ** FOCUS * cross_entropy


def balanced_mean(loss: Tensor, target: Tensor, counts: Tensor, classes: int) -> Tensor:
    """Return the mean [] of losses in which a class weighs as the root of how often it is there.

    Args:
        loss: [N, R, C].
        target: int64[N, R, C], classes.
        counts: bool[N, R, C], the cells that count.
        classes: how many there are.
    """
    times = torch.bincount(target[counts], minlength=classes).to(loss.dtype)
    weight = times.clamp(min=1).rsqrt()[target] * counts
    return (weight * loss).sum() / weight.sum().clamp(min=1e-8)


def scene_loss(told: Tensor, grid: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the losses of things, tiles, places and speeds by name, [] each, and metrics.

    Cells with a thing weigh as much as all those without one, and none that the screen does not
    show counts.

    Args:
        told: [N, THINGS + TILES + MOVING, ROWS, COLUMNS], of `SceneHead`.
        grid: int8[N, PLANES, ROWS, COLUMNS], of `mario_scene_grid.scene_grid`.
    """
    thing_logits, tile_logits, moving = told.split([THINGS, TILES, MOVING], 1)
    thing, tile = grid[:, THING].long(), grid[:, TILE].long()
    is_thing, is_shown = thing != Thing.NOTHING, tile != Tile.UNKNOWN
    of_things, is_empty = focal(thing_logits, thing), is_shown & ~is_thing
    empty = (of_things * is_empty).sum() / is_empty.sum().clamp(min=1)
    units = torch.tensor([OFFSET_PX, OFFSET_PX, *[SPEED_PX * SPEED_UNITS] * 2])
    target = grid[:, DX : VY + 1].float() / units[:, None, None]
    errors = F.smooth_l1_loss(moving, target, reduction="none") * is_thing.unsqueeze(1)
    place, speed = (
        part.sum() / is_thing.sum().clamp(min=1) for part in errors.split([2, MOVING - 2], 1)
    )
    losses = {
        "scene_things": balanced_mean(of_things, thing, is_thing, THINGS) + empty,
        "scene_tiles": balanced_mean(focal(tile_logits, tile), tile, is_shown, TILES),
        "scene_places": place,
        "scene_speeds": speed,
    }
    is_named = (thing_logits.argmax(1) == thing) & (thing > Thing.MARIO)
    named = is_named.sum() / (thing > Thing.MARIO).sum().clamp(min=1)
    return losses, {"dreamer/things_named": named.detach()}
