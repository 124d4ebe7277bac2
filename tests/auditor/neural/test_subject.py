"""The progress of a part of an analysis, and numbers of clean images and of their twins."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import Field, ValidationError

from auditor.neural.found import SIDES, Found, Sides, column
from tests.auditor.routed import chain, classifier_of, subject


def test_a_part_of_the_work_reports_its_share_of_the_whole() -> None:
    heard: list[tuple[float, str]] = []
    whole = replace(subject(classifier_of(chain()), n=2), on_progress=lambda share, what: heard.append((share, what)))
    part = whole.during(0.2, 0.6)
    part.on_progress(0.5, "half of it")
    part.during(0.5, 1.0).on_progress(0.5, "the middle of its second half")
    # 0.2 + 0.4 * 0.5; the second half goes from 0.4 to 0.6.
    assert [share for share, _ in heard] == pytest.approx([0.4, 0.5])
    assert heard[0][1] == "half of it"
    assert part.pairs is whole.pairs


class Counted(Found):
    label: int = Field(alias="class", title="Class")
    images: Sides[int]


def test_both_sides_are_stored_by_name_and_read_by_it() -> None:
    found = Counted(label=3, images=Sides(clean=5, adversarial=7))
    assert found.model_dump(mode="json") == {"class": 3, "images": {"clean": 5, "adversarial": 7}}
    assert Sides[int].of({"clean": 5, "adversarial": 7}.__getitem__) == found.images
    assert Counted.model_validate_json(found.model_dump_json()) == found
    assert [found.images[side] for side in SIDES] == [5, 7]
    assert column(Counted, "images.clean").title == "Clean"
    with pytest.raises(ValidationError, match="clean"):
        Counted.model_validate({"class": 3, "images": {"clean": "many", "adversarial": 7}})
