"""The losses, as pure functions; what may stand in for the picture's, or balance them all.

First those of the paper (Hafner et al. 2025, see networks.py; equation numbers are its), and of
imitation. The rest is off by default; docs/dreamer.md, "The ladder", says what it is tried for.
Shapes: T x B replayed steps, H x N imagined ones, A actions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerv3.networks import unimix_probs

HARMONY_PACE = 10.0  # an optimiser's step moves log(sigma) by so many times its learning rate
NORM_EPS = 1e-6

# Which losses Harmony takes as one; the others are left as they are.
HARMONY_GROUPS = {
    "picture": ("image", "redundancy"),
    "scene": ("scene_things", "scene_tiles", "scene_places", "scene_speeds"),
    "reward": ("reward",),
    "dynamics": ("dyn", "rep"),
}


# --------------------------------------------------------------------------------------------
# World model, actor, imitation
# --------------------------------------------------------------------------------------------


def kl_losses(posterior: Tensor, prior: Tensor, free_nats: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the dynamics loss, the representation loss and the KL divergence (equation 3).

    Both losses are KL(posterior || prior), summed over the S categoricals and at least free_nats;
    the first trains the prior, the second the posterior.

    Args:
        posterior: logits [..., S, K].
        prior: logits [..., S, K].
        free_nats: nats below which there is no gradient.

    Returns:
        [...], [...], and the divergence [...] without a gradient and without the limit.
    """
    p, q = unimix_probs(posterior), unimix_probs(prior)
    log_p, log_q = p.log(), q.log()
    dyn = (p.detach() * (log_p.detach() - log_q)).sum((-2, -1))
    rep = (p * (log_p - log_q.detach())).sum((-2, -1))
    return dyn.clamp(min=free_nats), rep.clamp(min=free_nats), dyn.detach()


def continue_loss(logits: Tensor, is_terminal: Tensor, discount: float) -> Tensor:
    """Return the cross entropy [...] of a continuation whose mean is the discount, 0 at the end."""
    target = (~is_terminal).to(logits.dtype) * discount
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def lambda_return(reward: Tensor, live: Tensor, mix: Tensor, value: Tensor) -> Tensor:
    """Return R_t = r_t+1 + live_t+1 ((1 - mix_t+1) v_t+1 + mix_t+1 R_t+1), R_T = v_T (equation 6).

    Args:
        reward: [T + 1, ...]; the first is not read.
        live: [T + 1, ...], discount times the chance that the episode goes on after t.
        mix: [T + 1, ...] or a broadcast of it: lambda, or 0 where the next step is of another
            episode.
        value: [T + 1, ...].

    Returns:
        [T, ...].
    """
    mix = mix.expand_as(reward)
    known = reward + live * (1 - mix) * value
    carried = live * mix
    returns = [value[-1]]
    for t in range(len(reward) - 1, 0, -1):
        returns.append(known[t] + carried[t] * returns[-1])
    return torch.stack(returns[:0:-1])


def actor_loss(
    logits: Tensor, actions: Tensor, advantage: Tensor, weight: Tensor, entropy_scale: float
) -> tuple[Tensor, Tensor]:
    """Return REINFORCE's loss with an entropy bonus, and the entropy (equation 7).

    Args:
        logits: [H, N, A].
        actions: int64[H, N], the actions that were sampled.
        advantage: [H, N], no gradient goes into it.
        weight: [H, N], the chance that the imagined episode came this far, discounted.
        entropy_scale: weight of the entropy.

    Returns:
        the mean loss [] and the mean entropy [].
    """
    probs = unimix_probs(logits)
    log_probs = probs.log()
    chosen = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    entropy = -(probs * log_probs).sum(-1)
    loss = -weight * (chosen * advantage.detach() + entropy_scale * entropy)
    return loss.mean(), entropy.detach().mean()


def imitation_loss(logits: Tensor, actions: Tensor, counts: Tensor) -> Tensor:
    """Return the mean negative log likelihood [] of what was done.

    Args:
        logits: [..., A].
        actions: int64[...].
        counts: bool[...], the states that count.
    """
    chosen = unimix_probs(logits).log().gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return -(chosen * counts).sum() / counts.sum().clamp(min=1)


def label_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy [] to a teacher's distribution, and what it is above its least.

    Args:
        logits: [..., A].
        labels: [..., A], the teacher's log probabilities.
        counts: bool[...], the states that count.

    Returns:
        the loss; the mean KL divergence, without a gradient.
    """
    n = counts.sum().clamp(min=1)
    cross_entropy = -(labels.exp() * unimix_probs(logits).log()).sum(-1)
    entropy = -(labels.exp() * labels).sum(-1)
    loss = (cross_entropy * counts).sum() / n
    return loss, loss.detach() - (entropy * counts).sum() / n


# --------------------------------------------------------------------------------------------
# The ladder's
# --------------------------------------------------------------------------------------------


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
