"""Momentum SGD in MXNet's form, and the learning rate of every step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class MXNetSGD(torch.optim.Optimizer):
    """SGD whose momentum buffer holds steps, learning rate included: m = 0.9 m - lr (g + wd w); w = w + m.

    `torch.optim.SGD` multiplies the buffer by the learning rate of the moment instead, so after a decay it
    slows down at once; here the old steps linger, as they did when the published weights were trained.

    Args:
        params: all of them decay, biases and batch norms included.
        lr: learning rate.
        momentum: share of the last step that is taken again.
        weight_decay: of every parameter.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; a parameter without a gradient stays."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            steps, gradients = [], []
            for param in params:
                state = self.state[param]
                # A checkpoint may hold steps in another order of memory.
                state["last_step"] = _laid_out_as(param, state["last_step"]) if state else torch.zeros_like(param)
                steps.append(state["last_step"])
                assert param.grad is not None
                gradients.append(_laid_out_as(param, param.grad))
            decayed = torch._foreach_add(gradients, params, alpha=group["weight_decay"])
            torch._foreach_mul_(steps, group["momentum"])
            torch._foreach_add_(steps, decayed, alpha=-group["lr"])
            torch._foreach_add_(params, steps)
        return result


def _laid_out_as(param: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor of a parameter's shape with its strides too, those of axes of one element included.

    Of tensors that differ in one stride alone, `torch._foreach_*` takes every tensor of every list by itself on a GPU.
    """
    if tensor.stride() == param.stride():
        return tensor
    sides = zip(tensor.stride(), param.stride(), param.shape, strict=True)
    if all(one == other for one, other, size in sides if size != 1):
        return tensor.as_strided(param.shape, param.stride())
    return torch.empty_like(param).copy_(tensor)


def learning_rate(
    step: float,
    epoch: int,
    total_steps: int,
    *,
    base: float,
    mode: str,
    decay: float,
    decay_epochs: tuple[int, ...],
    warmup_steps: int,
    warmup_factor: float,
) -> float:
    """Return the learning rate of a step; it depends on nothing else, so a resumed run goes on as it was.

    Args:
        step, epoch: both from 0. After steps of another size the first is the images done by those of a step now,
            which need not be whole.
        total_steps: of the whole training, as if all were of the present size, for `cos`.
        base: the rate that warm-up leads to.
        mode: `step` multiplies by `decay` at the start of every epoch in `decay_epochs`; `cos` (or `cosine`)
            falls to 0 along half a cosine (Loshchilov and Hutter, SGDR, section 3, without restarts).
        warmup_steps: over so many the rate rises linearly from `warmup_factor` of what it would be.
    """
    if mode in ("cos", "cosine"):
        rate = base * 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))
    else:
        rate = base * decay ** sum(epoch >= decay_epoch for decay_epoch in decay_epochs)
    if step < warmup_steps:
        rate *= warmup_factor + (1 - warmup_factor) * step / warmup_steps
    return rate
