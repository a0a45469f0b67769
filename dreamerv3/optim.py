"""The optimiser of DreamerV3: adaptive gradient clipping, then LaProp.

AGC: Brock, De, Smith and Simonyan (2021), arXiv:2102.06171, per tensor as in the paper of
DreamerV3. LaProp: Ziyin, Wang and Ueda (2020), arXiv:2002.04839: momentum of the normalised
gradient, where Adam normalises the momentum. A step moves no weight by much more than the learning
rate, however small its gradients are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

MIN_NORM = 1e-3  # a tensor's norm counts as at least this, so that zeros can leave zero


def clip_adaptively(params: list[Tensor], grads: list[Tensor], clip: float) -> Tensor:
    """Scale each gradient, in place, to at most `clip` times the norm of its parameter.

    Returns:
        the norm of all gradients together before clipping, [].
    """
    grad_norms = torch.stack(torch._foreach_norm(grads))
    limits = torch.stack(torch._foreach_norm(params)).clamp_(min=MIN_NORM) * clip
    scales = (limits / grad_norms.clamp(min=1e-12)).clamp_(max=1.0)
    torch._foreach_mul_(grads, list(scales.unbind()))
    return grad_norms.norm()


class LaProp(Optimizer):
    """LaProp with AGC and a linear warm-up, whose first step has learning rate 0.

    All tensors of the parameters are handled by one `foreach` call per operation.
    """

    STATE = frozenset({"square", "momentum"})  # what it keeps of each parameter

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 4e-5,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float = 0.3,
        warmup_steps: int = 1000,
    ) -> None:
        """Make it.

        Args:
            params: what to train.
            lr: learning rate after the warm-up.
            betas: decay of the momentum and of the squared gradients.
            eps: added to the root mean square; tiny, since gradients are.
            agc: see `clip_adaptively`.
            warmup_steps: steps from learning rate 0 to lr; 0: none.
        """
        defaults = {"lr": lr, "betas": betas, "eps": eps, "agc": agc, "warmup_steps": warmup_steps}
        super().__init__(params, defaults)
        self.grad_norm = torch.zeros(())  # of the last step, before clipping

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        group = self.param_groups[0]
        warmup_steps = group["warmup_steps"]
        return group["lr"] * (min(1.0, group.get("step", 0) / warmup_steps) if warmup_steps else 1)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; the gradients are used up.

        Raises:
            FloatingPointError: a gradient is not finite; parameters and state are as before.
        """
        lr = self.learning_rate()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params]
            self.grad_norm = clip_adaptively(params, grads, group["agc"])
            if not torch.isfinite(self.grad_norm):
                raise FloatingPointError("the gradient is not finite: no step was taken")
            step = group["step"] = group.get("step", 0) + 1
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"square": torch.zeros_like(p), "momentum": torch.zeros_like(p)}
            squares = [self.state[p]["square"] for p in params]
            momenta = [self.state[p]["momentum"] for p in params]
            beta1, beta2 = group["betas"]

            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
            scales = torch._foreach_sqrt(squares)
            # Both running means begin at zero; what is divided by corrects for that.
            torch._foreach_div_(scales, (1 - beta2**step) ** 0.5)
            torch._foreach_add_(scales, group["eps"])
            torch._foreach_div_(grads, scales)
            torch._foreach_lerp_(momenta, grads, 1 - beta1)
            torch._foreach_add_(params, momenta, alpha=-lr / (1 - beta1**step))
