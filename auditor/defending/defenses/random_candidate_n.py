"""A random candidate of NIP_n, as a control."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.defending.nip.inside import NeuronPool
from auditor.defending.nip.random_choice import RandomChoice


class RandomCandidateNeurons(RandomChoice, NeuronPool):
    """NIP_n with a random candidate in place of the most similar one: a control for template and similarity.

    Fitted as NIP_n is (arXiv 2112.13060, appendix D); what NIP_n restores beyond this comes from its choice.
    """

    title: ClassVar[str] = "Random candidate of NIP_n (control)"
    kind: Literal["random-candidate-n"] = "random-candidate-n"
