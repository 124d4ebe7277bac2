"""Auto-PGD, shared by its three forms: the step size is halved where the loss does not come along; the momentum is constant."""

from __future__ import annotations

from functools import cached_property

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Gradient, Loss, Query, Rows
from auditor.attacking.geometry import rows as per_row

FIRST_WINDOW, WINDOW_SHRINKS, LAST_WINDOW = 0.22, 0.03, 0.06
"""Shares of the steps: the first window between two checks, by how much each is shorter, and the shortest."""

ASCENTS = 0.75
"""Where fewer steps of a window than this share raised the loss, the step size is halved."""

MOMENTUM = 0.75


class AutoPGD(Attack):
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, algorithm 1): a subclass gives the loss."""

    steps: int = Field(100, ge=1, le=10_000, description="Gradient steps of one run.")
    restarts: int = Field(1, ge=1, le=1000, description="Random starts; one success is enough.")
    eot: int = Field(
        1, ge=1, le=1000, description="Gradients to average per step, for a model with random outputs (EOT)."
    )

    @property
    def runs(self) -> int:
        return self.restarts

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def averages(self) -> int:
        return self.eot

    def plain(self) -> Attack:
        return self.model_copy(update={"eot": 1})

    @property
    def cost(self) -> float:
        return 3.0 * self.eot * self.steps + 1

    @cached_property
    def windows(self) -> list[int]:
        """For each step: the length of the window that ends there, 0 where none does."""
        window = max(1, int(FIRST_WINDOW * self.steps))
        shrink, shortest = max(1, int(WINDOW_SHRINKS * self.steps)), max(1, int(LAST_WINDOW * self.steps))
        ends, counter = [0] * (self.steps + 1), 0
        for step in range(1, self.steps + 1):
            counter += 1
            if counter == window:
                ends[step], counter, window = window, 0, max(window - shrink, shortest)
        return ends

    def loss(self, rows: Rows) -> Loss | None:
        """The loss to ascend; None for the criterion's own."""
        return None

    def start(self, rows: Rows, query: Query) -> Tensor:
        inside = rows.ball.sample(rows.x, rows.random("start"))
        length = per_row(rows.ball.distance(inside, rows.x), rows.x).clamp_min(1e-12)
        first = rows.x + (inside - rows.x) * (rows.ball.epsilon / length)
        none, nothing = torch.zeros_like(rows.epsilon), torch.zeros_like(rows.x)
        rows.memory.update(
            before=nothing, peak=nothing, peak_gradient=nothing, peak_loss=none - torch.inf, last_loss=none,
            ascents=none, step_size=2 * rows.epsilon, checked_loss=none - torch.inf, halved=torch.ones_like(none),
        )  # fmt: skip
        return first

    def step(self, rows: Rows, query: Query) -> Tensor:
        memory, first = rows.memory, rows.steps == 0
        slope = self._slope(rows, query)
        self._remember(memory, rows.x_adv, slope, first)
        x_adv, gradient = self._check(rows, slope, first)
        ball, step = rows.ball, per_row(memory["step_size"], rows.x)
        before = torch.where(per_row(first, x_adv), x_adv, memory["before"])
        memory["before"] = x_adv
        ahead = ball.project(x_adv + step * ball.steepest(gradient, x_adv), rows.x)
        weight = per_row(torch.where(first, 1.0, MOMENTUM).to(x_adv.dtype), x_adv)
        return x_adv + weight * (ahead - x_adv) + (1 - weight) * (x_adv - before)

    def _slope(self, rows: Rows, query: Query) -> Gradient:
        loss = self.loss(rows)
        if self.eot == 1:
            return query.gradient(loss=loss)
        same = rows.x_adv[:, None].expand(-1, self.eot, -1, -1, -1)
        return Gradient(*(answer.mean(1) for answer in query.gradient(same, loss=loss)))

    def _remember(self, memory: dict[str, Tensor], x_adv: Tensor, slope: Gradient, first: Tensor) -> None:
        """The best point so far, and whether this step went up."""
        memory["ascents"] = memory["ascents"] + ((slope.loss > memory["last_loss"]) & ~first)
        memory["last_loss"] = slope.loss
        better = slope.loss > memory["peak_loss"]
        memory["peak"] = torch.where(per_row(better, x_adv), x_adv, memory["peak"])
        memory["peak_gradient"] = torch.where(per_row(better, x_adv), slope.value, memory["peak_gradient"])
        memory["peak_loss"] = torch.where(better, slope.loss, memory["peak_loss"])
        memory["checked_loss"] = torch.where(first, slope.loss, memory["checked_loss"])

    def _check(self, rows: Rows, slope: Gradient, first: Tensor) -> tuple[Tensor, Tensor]:
        """At the end of a window: halve the step and go back to the best point where the loss did not come along."""
        memory = rows.memory
        window = torch.tensor(self.windows, device=rows.x.device)[rows.steps]
        due = window > 0
        if not bool(due.any()):
            return rows.x_adv, slope.value
        oscillates = memory["ascents"] <= ASCENTS * window
        stands = (memory["halved"] == 0) & (memory["checked_loss"] >= memory["peak_loss"])
        halve = due & (oscillates | stands)
        memory["step_size"] = torch.where(halve, memory["step_size"] / 2, memory["step_size"])
        memory["halved"] = torch.where(due, halve.to(memory["halved"].dtype), memory["halved"])
        memory["checked_loss"] = torch.where(due, memory["peak_loss"], memory["checked_loss"])
        memory["ascents"] = memory["ascents"].masked_fill(due, 0.0)
        back = per_row(halve, rows.x)
        return (
            torch.where(back, memory["peak"], rows.x_adv),
            torch.where(back, memory["peak_gradient"], slope.value),
        )
