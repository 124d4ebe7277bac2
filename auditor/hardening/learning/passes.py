"""Passes: how many images went through a network forwards and backwards."""

from __future__ import annotations

from typing import NamedTuple


class Passes(NamedTuple):
    """Forward and backward passes, of single images where they are counted, per image and step where they are declared."""

    forwards: float = 0
    backwards: float = 0

    @property
    def cost(self) -> float:
        """In forward passes; a backward pass counts as two."""
        return self.forwards + 2 * self.backwards

    def plus(self, forwards: float, backwards: float) -> Passes:
        """These and some more."""
        return Passes(self.forwards + forwards, self.backwards + backwards)
