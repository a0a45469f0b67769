"""What may stand in for the picture's plain loss, or balance it against the others.

All of it is off by default; docs/dreamer.md, "The ladder", says what each is tried for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HARMONY_PACE = 10.0  # an optimiser's step moves log(sigma) by so many times its learning rate
NORM_EPS = 1e-6

# Which losses Harmony takes as one; the others are left as they are.
HARMONY_GROUPS = {
    "picture": ("image", "redundancy"),
    "scene": ("scene_things", "scene_tiles", "scene_places", "scene_speeds"),
    "reward": ("reward",),
    "dynamics": ("dyn", "rep"),
}


def sprite_weights(sprites: Tensor, share: float) -> Tensor:
    """Return the weight of each pixel, [N, H, W], 1 in the mean of every picture.

    The pixels of sprites weigh `share` of a picture together; where there is none, all weigh 1.

    Args:
        sprites: bool[N, H, W], of `mario_scene_grid.sprite_mask`.
        share: of the whole weight, in [0, 1].
    """
    pixels = sprites.shape[-2] * sprites.shape[-1]
    count = sprites.sum((-2, -1), keepdim=True).float()
    on_sprites = share * pixels / count.clamp(min=1)
    elsewhere = (1 - share) * pixels / (pixels - count).clamp(min=1)
    weights = torch.where(sprites, on_sprites, elsewhere)
    return torch.where((count > 0) & (count < pixels), weights, torch.ones_like(weights))


def redundancy_loss(projected: Tensor, tokens: Tensor, off_diagonal: float) -> Tensor:
    """Return the loss [] that stands in for a decoder in R2-Dreamer.

    "R2-Dreamer: Redundancy-Reduced World Models without Decoders or Augmentation" (ICLR 2026),
    after Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230): the correlation, over the batch, of
    what the latent state is projected to and the encoder's tokens is to be the identity. No
    gradient goes into the tokens here; the encoder learns through the state.

    Args:
        projected: [N, E], a linear projection of the state's features.
        tokens: [N, E], of the pictures that the states have seen.
        off_diagonal: weight of the squares off the diagonal.
    """
    one, other = (
        (x - x.mean(0)) / (x.std(0) + NORM_EPS)
        for x in (projected.float(), tokens.detach().float())
    )
    with torch.autocast("cpu", enabled=False):  # its small entries are what it is about
        correlation = one.T @ other / len(one)  # [E, E]
    diagonal = correlation.diagonal()
    on, square = (diagonal - 1).square().sum(), correlation.square().sum()
    return on + off_diagonal * (square - diagonal.square().sum())


class Harmony(nn.Module):
    """Learnt weights of the model's losses.

    HarmonyDream (Ma et al. 2024, arXiv:2310.00344): a loss L becomes L / sigma + log(1 + sigma),
    sigma learnt with the model and 1 at first. Where sigma is best, near L for a large one, a loss
    weighs about as much as the others, however large its numbers are, and none can vanish.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in HARMONY_GROUPS}
        )

    def forward(self, losses: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return losses by name in balance, one for the sigmas beside them, and metrics."""
        balanced, metrics = dict(losses), {}
        price = torch.zeros(())
        for group, names in HARMONY_GROUPS.items():
            present = [name for name in names if name in losses]
            if not present:
                continue
            log_sigma = HARMONY_PACE * self.log_sigma[group]
            for name in present:
                balanced[name] = losses[name] * torch.exp(-log_sigma)
            price = price + torch.log1p(torch.exp(log_sigma))
            metrics[f"dreamer/sigma_{group}"] = torch.exp(log_sigma.detach())
        return balanced | {"harmony": price}, metrics
