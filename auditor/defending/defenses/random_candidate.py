"""A random candidate of NIP, as a control."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.defending.nip.pool import PerturbationPool
from auditor.defending.nip.random_choice import RandomChoice


class RandomCandidate(RandomChoice, PerturbationPool):
    """NIP with a random candidate in place of the most similar one: a control for template and similarity.

    Fitted as NIP is (arXiv 2112.13060); what NIP restores beyond this comes from its choice of the candidate.
    """

    title: ClassVar[str] = "Random candidate (control)"
    kind: Literal["random-candidate"] = "random-candidate"
