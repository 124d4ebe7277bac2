"""RowRandom: random numbers that belong to a sample, not to a batch, so no draw depends on the batch size; BatchRandom:
those that belong to a batch, for training, which depends on its batches anyway."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any parts that have a stable text: the same parts, the same seed, on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """While inside, the global generators of torch (on the CPU and this device), NumPy and Python, from which networks draw
    (dropout, noise, initial weights), follow from the seed; outside nothing changes."""
    before, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numbers)


class RowRandom:
    """One ``torch.Generator`` per row of a batch, seeded by the row's own key.

    ``seed`` and ``scope`` are shared; ``keys`` holds one key per row (sample id, restart, step). Two draws from one
    RowRandom continue each row's stream.
    """

    def __init__(self, seed: int, scope: str, keys: Sequence[tuple[int, ...]]) -> None:
        self._generators = [torch.Generator().manual_seed(derive_seed(seed, scope, *key)) for key in keys]

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform on [0, 1), shape, dtype and device of ``like`` (one row per key)."""
        return self._draw(like, torch.rand)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, shape, dtype and device of ``like``."""
        return self._draw(like, torch.randn)

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts with these means, shape, dtype and device of ``rates``."""
        pairs = zip(rates.cpu(), self._generators, strict=True)
        rows = [torch.poisson(rate, generator=generator) for rate, generator in pairs]
        return torch.stack(rows).to(rates) if rows else torch.empty_like(rates)

    def _draw(self, like: Tensor, draw: Callable[..., Tensor]) -> Tensor:
        rows = [draw(like.shape[1:], generator=generator) for generator in self._generators]
        return torch.stack(rows).to(like) if rows else torch.empty_like(like)


class BatchRandom(RowRandom):
    """One generator for a whole batch, seeded by the key of the batch and drawn from on its device: much less work per image."""

    def __init__(self, seed: int, scope: str, *key: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(derive_seed(seed, scope, *key))

    def poisson(self, rates: Tensor) -> Tensor:
        return torch.poisson(rates, generator=self._generator)

    def _draw(self, like: Tensor, draw: Callable[..., Tensor]) -> Tensor:
        return draw(like.shape, generator=self._generator, device=like.device, dtype=like.dtype)
