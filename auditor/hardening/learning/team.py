"""Team: the processes that train one network together, each on its share of every batch; or the one that is alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.hardening.hardening import Terms, TrainingStep
from auditor.kit.errors import SpecError
from auditor.kit.randomness import derive_seed

if TYPE_CHECKING:
    from auditor.hardening.spec import TrainingSpec

Said = TypeVar("Said")
LossOf = Callable[[TrainingStep], Terms]

PATIENCE = timedelta(days=30)
"""How long a process waits for another: validations may take hours, and whoever started them sees when one dies."""


class Team:
    """A process that trains alone. ``number``: this process among ``size``; number 0 validates, saves and reports."""

    def __init__(self, device: torch.device, number: int = 0, size: int = 1) -> None:
        self.device, self.number, self.size = device, number, size

    @property
    def leads(self) -> bool:
        return self.number == 0

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of a batch, whose size is a multiple of the processes."""
        each = len(rows) // self.size
        return rows[self.number * each : (self.number + 1) * each]

    def seed(self, seed: int) -> int:
        """For random numbers that must differ from process to process."""
        return derive_seed(seed, "process", self.number) if self.number else seed

    def told(self, say: Callable[[], Said]) -> Said:
        """What the leading process says; the others do not ask."""
        return say()

    def told_tensors(self, say: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The same, of tensors by name, on this process's device."""
        return say()

    def mean(self, values: Tensor) -> Tensor:
        """Over the processes."""
        return values

    def together(self, network: nn.Module, loss: LossOf) -> LossOf:
        """A loss whose gradient by the network's parameters is that of the whole batch."""
        return loss


class Several(Team):
    """One of several processes, on a GPU each or all on the CPU, which have joined each other."""

    def told(self, say: Callable[[], Said]) -> Said:
        said = [say() if self.leads else None]
        torch.distributed.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        found: Said = said[0]  # type: ignore[assignment]  # the leading process has filled it
        return found

    def told_tensors(self, say: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        said = self.told(lambda: {name: value.cpu() for name, value in say().items()})
        return {name: value.to(self.device) for name, value in said.items()}

    def mean(self, values: Tensor) -> Tensor:
        total = values.cpu()
        torch.distributed.all_reduce(total)
        return total / self.size

    def together(self, network: nn.Module, loss: LossOf) -> LossOf:
        # Parameters that a loss does not reach are allowed for. Without that, gradients are put in another order after the first
        # step, and a training that was interrupted would not add up like one that was not.
        wrapped = nn.parallel.DistributedDataParallel(_WholeLoss(network, loss), find_unused_parameters=True)
        return lambda step: wrapped(step)


class _WholeLoss(nn.Module):
    """The loss of a step as a module, for DistributedDataParallel.

    That averages gradients as they arrive at the parameters, and counts on one arrival each in a step; around the network alone
    it fails where a method has several passes, or gradients of gradients. Within this one forward pass they are out of its sight:
    gradients by images and features arrive at no parameter, and the backward pass through the loss arrives at each once. Running
    statistics are those of the leading process.
    """

    def __init__(self, network: nn.Module, loss: LossOf) -> None:
        super().__init__()
        self.network = network
        self._loss = loss

    def forward(self, step: TrainingStep) -> Terms:
        terms = self._loss(step)
        return Terms(terms.loss, {name: value.detach() for name, value in terms.parts.items()})


def team_size(spec: TrainingSpec, device: torch.device) -> int:
    """How many processes train: as many as the spec says, or as GPUs that share its batches evenly, or one.

    Raises SpecError for more than there are GPUs.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    possible = torch.distributed.is_available()
    if spec.processes is None:
        even = (size for size in range(gpus, 1, -1) if spec.batch_size % size == 0 and spec.batch_size >= 2 * size)
        return next(even, 1) if possible else 1
    if spec.processes > 1 and not possible:
        raise SpecError("This build of PyTorch cannot train in several processes.", "Set processes to 1.")
    if device.type == "cuda" and spec.processes > gpus:
        raise SpecError(
            f"processes: expected at most {gpus}, one for each GPU of this machine, got {spec.processes}.",
            "Leave processes empty to use all of them.",
        )
    return spec.processes


@contextmanager
def joined(meeting: Path, device_type: str, number: int, size: int) -> Iterator[Several]:
    """Join the other processes, which meet in a file; they talk within this machine alone."""
    if sys.platform == "linux":
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")
    device = torch.device("cuda", number) if device_type == "cuda" else torch.device(device_type)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "cpu:gloo",
        store=torch.distributed.FileStore(  # type: ignore[attr-defined]
str(meeting), size), rank=number, world_size=size, timeout=PATIENCE,
    )  # fmt: skip
    yield Several(device, number, size)
