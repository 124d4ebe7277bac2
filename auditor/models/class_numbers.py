"""Class names: those that are numbers, and which spellings are one name."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_CLASSES = 100_000
"""A class name that is a larger number is a name, such as a WordNet id, not the number of a class."""


def class_numbers(names: Sequence[str]) -> list[int] | None:
    """The names as class numbers, or None where they are not all numbers, each another one, below MOST_CLASSES."""
    if not names or not all(name.isascii() and name.isdecimal() for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) and max(numbers) < MOST_CLASSES else None


def number_names(numbers: Sequence[int]) -> tuple[str, ...]:
    """A name for every class up to the largest number: the number itself."""
    return tuple(map(str, range(max(numbers) + 1)))


def plain_name(name: str) -> str:
    """A name without case and punctuation: ``T-shirt/top`` and ``t_shirt top`` are one class; numbers lose leading zeros."""
    plain = re.sub(r"[\W_]+", " ", name.casefold()).strip() or name.strip()
    return str(int(plain)) if _number(plain) else plain


def all_numbers(names: Sequence[str]) -> bool:
    """Whether every name is written in digits alone."""
    return all(_number(name.strip()) for name in names)


def _number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
