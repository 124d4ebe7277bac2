"""Folders of corruptions and severities, as in ImageNet-C: where they lie, and which are read."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.data.intake.folder_paths import Candidate, Located
from auditor.data.intake.groups import CORRUPTIONS, SEVERITIES
from auditor.data.intake.reading import Choice, Reading, unknown
from auditor.models.dataset import Group


def corruptions_at(deep: Sequence[Candidate], depth: int) -> int | None:
    """Where the folders of corruptions and severities begin, as in ImageNet-C; None where there are none."""
    severities = {str(number) for number in range(1, SEVERITIES + 1)}
    length = len(deep[0].parts)
    for start in range(depth, length - 3):
        if {path.parts[start] for path in deep} <= CORRUPTIONS and {
            path.parts[start + 1] for path in deep
        } <= severities:
            return start if length - start == 4 else None
    if length - depth == 3 and depth and {path.parts[depth] for path in deep} <= severities:
        return depth if deep[0].parts[depth - 1] in CORRUPTIONS else None
    return None


def chosen_groups(located: list[Located], reading: Reading, name: str) -> list[Located]:
    """The images of the corruptions and severities that were asked for; ``name`` is the archive's. Raises IntakeError."""
    groups = [item.group for item in located if item.group is not None]
    known = list(dict.fromkeys(group.corruption for group in groups))
    levels = sorted({group.severity for group in groups})
    for corruption in reading.corruptions:
        if corruption not in known:
            raise unknown("corruptions", corruption, known, name)
    for severity in reading.severities:
        if severity not in levels:
            raise unknown("severities", str(severity), [str(level) for level in levels], name)
    return [
        item for item in located
        if item.group is not None
        and (not reading.corruptions or item.group.corruption in reading.corruptions)
        and (not reading.severities or item.group.severity in reading.severities)
    ]  # fmt: skip


def group_choices(groups: Sequence[Group]) -> list[Choice]:
    """What can be chosen of these groups."""
    corruptions = tuple(dict.fromkeys(group.corruption for group in groups))
    severities = tuple(str(severity) for severity in sorted({group.severity for group in groups}))
    return [
        Choice(field="corruptions", values=corruptions, several=True, needed=False),
        Choice(field="severities", values=severities, several=True, needed=False),
    ]
