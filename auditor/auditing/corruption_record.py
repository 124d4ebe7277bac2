"""CorruptionRecord: what one corruption did to the samples of an audit, as data."""

from __future__ import annotations

from typing import Annotated

from auditor.auditing.corruption import CORRUPTIONS, Corruption
from auditor.kit.capability import MemberOf
from auditor.kit.document import Data


class CorruptionRecord(Data):
    """The model under one corruption of one severity: the class it predicts for each entry of the sample table.

    ``right``: for a model with random outputs, the share of the draws that gave the label; else None.
    """

    corruption: Annotated[Corruption, MemberOf(CORRUPTIONS)]
    predictions: list[int]
    seconds: float
    right: list[float] | None = None
