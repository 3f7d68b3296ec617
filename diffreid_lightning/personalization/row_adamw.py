"""AdamW with a step count per table row, which skips rows without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from diffreid_lightning.errors import check_range


def row_adamw_(
    rows: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    steps: Tensor,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """Step by AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), in place, in the rows with a gradient.

    Plain AdamW moves every row of an embedding table at every step, by momentum and decay, although a batch has a
    gradient for only a few rows. Its bias correction counts the steps of the whole table: a row that is first used late
    moves by ``(1 - betas[0]) / sqrt(1 - betas[1])`` learning rates (3.2 by default), and drifts on while unused, to
    ``1 / sqrt(1 - betas[1])`` of them (32). Here an unused row and its moments do not change, and the bias
    correction counts the row's own steps. If all rows have a gradient at every step, the two rules are equal.

    Args:
        rows: (N, ...) the table.
        gradient: (N, ...); an all-zero row is skipped.
        mean: (N, ...) running mean of the gradient.
        square: (N, ...) running mean of its square.
        steps: (N,) float32, steps that each row has taken.
        lr: learning rate.
        betas: decay of the two running means, each from 0 to below 1.
        eps: added to the denominator.
        weight_decay: decoupled weight decay, of rows with a gradient.
    """
    touched = gradient.flatten(1).ne(0).any(dim=1).nonzero().squeeze(1)
    if not len(touched):
        return
    fresh, value = gradient[touched], rows[touched]
    # 1. The moments of these rows.
    first = mean[touched].lerp_(fresh, 1 - betas[0])
    second = square[touched].mul_(betas[1]).addcmul_(fresh, fresh, value=1 - betas[1])
    count = steps[touched] + 1
    mean[touched], square[touched], steps[touched] = first, second, count
    # 2. Bias correction, row by row.
    shape = (-1, *[1] * (rows.dim() - 1))
    start_first = (1 - betas[0] ** count.double()).to(value.dtype).view(shape)
    start_second = (1 - betas[1] ** count.double()).to(value.dtype).view(shape)
    # 3. Decay and step.
    value.mul_(1 - lr * weight_decay)
    denominator = (second.sqrt() / start_second.sqrt()).add_(eps)
    rows[touched] = value - lr / start_first * first / denominator


class RowAdamW(Optimizer):
    """AdamW that steps parameter groups with ``by_row: True`` row by row (embedding tables).

    Gradients stay dense, so DDP, clipping and accumulation work as usual.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: decoupled weight decay; of table rows only with a gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            check_range(f"RowAdamW.{name}", value)
        for beta in betas:
            check_range("RowAdamW.betas", beta, 0, 1, below=True)
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "by_row": False}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: recomputes gradients and loss.

        Returns:
            The closure's loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            seen = [parameter for parameter in group["params"] if parameter.grad is not None]
            (self._step_rows if group["by_row"] else self._step_whole)(group, seen)
        return loss

    def _step_rows(self, group: dict[str, Any], tables: list[Tensor]) -> None:
        for table in tables:
            state = self.state[table]
            if not state:
                # Not "step": torch and Lightning leave state of that name on another device than the table.
                state["row_steps"] = torch.zeros(len(table), dtype=torch.float32, device=table.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            assert table.grad is not None
            row_adamw_(
                table, table.grad, state["exp_avg"], state["exp_avg_sq"], state["row_steps"],
                lr=group["lr"], betas=group["betas"], eps=group["eps"], weight_decay=group["weight_decay"],
            )  # fmt: skip

    def _step_whole(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                self.state[weight] = {"step": torch.tensor(0.0), **moments}
        states = [self.state[weight] for weight in weights]
        adamw(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip
