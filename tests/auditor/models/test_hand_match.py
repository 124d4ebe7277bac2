"""Classes matched by hand: renamed, joined and left out, in an audit, a vetting and a report; and what may be wrong with it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from auditor.auditing.audit import run
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.auditing.vet import ClassifierCard, vet
from auditor.kit.errors import MismatchError
from auditor.models.class_match import ClassMatch, Sides, match_classes
from auditor.models.class_ways import by_hand, proposals
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.hand_match import HandMatch
from auditor.report.comparison import compare
from auditor.report.html import render
from tests.auditor.models.test_class_match import ANIMALS, SPEC, answers, flag_names, named
from tests.narrow import known

FOREIGN = ("Biene", "Katze", "Ameise", "Hund", "Aal")
"""The animals in another language and order: labels 0 to 4 of the data are the model's classes 1, 2, 0, 3 and 4."""

PLACE = np.array([1, 2, 0, 3, 4])
MATCH: dict[str, int | str | None] = {"Biene": "bee", "katze": 2, "Ameise": "ANT", "Hund": "dog", "4": "eel"}


def in_another_language(n: int = 60) -> tuple[Classifier, ImageDataset, np.ndarray]:
    """A model that is always right, its data with names that it does not know, and the right labels in the model's order."""
    classifier = named(ANIMALS)
    images, labels = answers(classifier, n)
    return classifier, ImageDataset(images, np.argsort(PLACE)[labels], FOREIGN, sha256="d" * 64, name="foreign"), labels


def matched_places(match: HandMatch, names: tuple[str, ...] | None = FOREIGN) -> ClassMatch:
    return match_classes(ANIMALS, 5, names, np.full(5, 4), "d", match)


def test_an_audit_uses_the_match_and_says_so() -> None:
    classifier, data, labels = in_another_language()
    without = run(AuditSpec.load(SPEC | {"samples": None}), classifier, data)
    assert flag_names(without.flags)["class names"] == "severe"
    assert without.provenance.classes is not None
    assert without.provenance.classes.describe() == "by number"
    result = run(AuditSpec.load(SPEC | {"samples": None, "match": MATCH}), classifier, data)
    assert (result.clean_accuracy.value, result.samples.labels) == (1.0, labels.tolist())
    assert result.flags == ()
    assert "edited by hand: 'Biene' is class 1 ('bee'), 'Katze' is class 2 ('cat'), 'Ameise'" in " ".join(
        result.provenance.dataset.notes
    )
    table = known(result.provenance.classes)
    # Biene, Katze and Ameise move; Hund and Aal are confirmed where they were proposed.
    assert table.describe() == "by hand, 3 of 5 classes edited"
    assert [(row.name, row.place, row.changed) for row in table.rows] == list(
        zip(FOREIGN, PLACE.tolist(), [True, True, True, False, False], strict=True)
    )
    assert sum(row.images for row in table.rows) == 60
    page = render(result)
    assert "Classes of the data on the model" in page
    assert "matched by hand, 3 of 5 classes edited" in page
    assert AuditResult.load(result.model_dump_json()) == result
    with pytest.raises(MismatchError, match="do not agree on the true classes"):
        compare(without, result)


def test_classes_are_joined_and_left_out() -> None:
    classifier, data, labels = in_another_language()
    spec = AuditSpec.load(SPEC | {"samples": None, "match": MATCH | {"Hund": None, "4": "cat"}})
    result = run(spec, classifier, data)
    kept = np.flatnonzero(labels != 3)
    assert result.samples.ids == kept.tolist()
    assert result.samples.labels == np.where(labels == 4, 2, labels)[kept].tolist()
    # The model is right on all that is left but the eels, which now count as cats.
    assert result.clean_accuracy.hits == int((labels[kept] != 4).sum())
    notes = " ".join(result.provenance.dataset.notes)
    assert "2 classes of the data count as class 2 ('cat') of the model: 'Katze', 'Aal'." in notes
    assert f"{int((labels == 3).sum())} images of 1 class left out, as the match by hand says: 'Hund'." in notes
    assert "none of class 3 ('dog'), 4 ('eel')" in notes
    assert f"{int((labels == 3).sum())} images left out" in render(result)
    fewer = run(AuditSpec.load(SPEC | {"samples": 7, "match": MATCH | {"Hund": None}}), classifier, data)
    assert len(fewer.samples) == 7
    assert not set(fewer.samples.ids) & set(np.flatnonzero(labels == 3).tolist())


def test_a_vetting_uses_the_match() -> None:
    classifier, data, _ = in_another_language()
    card = vet(classifier, data, match=MATCH)
    assert known(card.accuracy).value == 1.0
    assert known(card.classes).how == "hand"
    assert "edited by hand" in card.notes[0]
    assert "class names" not in flag_names(card.flags)
    older = {name: value for name, value in json.loads(card.model_dump_json()).items() if name != "classes"}
    assert ClassifierCard.load(json.dumps(older)).classes is None


def test_the_rest_is_matched_without_the_classes_named() -> None:
    names = ("bee", "ant", "frog")
    match = match_classes(("ant", "bee", "cat"), 3, names, np.full(3, 4), "d", {"frog": "cat"})
    assert known(match.place).tolist() == [1, 0, 2]
    assert match.flags == ()
    # By position, as without the match, the frogs were cats already.
    assert match.changed == ()
    assert match.notes[-1] == "The match of classes was given by hand, as it was proposed."


@pytest.mark.parametrize(
    ("match", "words", "remedy"),
    [
        ({"Bienne": 1}, "the data set d has no class 'Bienne'", "Did you mean Biene?"),
        ({"7": 1}, "the data set d has no class '7'", "'Biene', 'Katze', 'Ameise', 'Hund', 'Aal'; or give a number from 0 to 4"),
        ({"Biene": "be"}, "the model has no class 'be'", "Did you mean bee?"),
        ({"Biene": 5}, "the model has no class '5'", "or give a number from 0 to 4"),
        ({"Biene": -1}, "the model has no class '-1'", "or give a number from 0 to 4"),
        ({"Biene": 1, "0": 1}, "class '0' of the data is named twice", "Name each class of the data once"),
        (dict.fromkeys(FOREIGN), "leaves out every image", "at least one class"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_match_is_said(match: HandMatch, words: str, remedy: str) -> None:
    with pytest.raises(MismatchError) as caught:
        matched_places(match)
    assert words in caught.value.message
    assert remedy in caught.value.hint


def test_the_remedies_work() -> None:
    for match in ({"Biene": 1}, {"4": 1}, {"Biene": "bee"}, dict.fromkeys(FOREIGN[1:]) | {"Biene": 0}):
        assert matched_places(match).changed is not None
    with pytest.raises(MismatchError, match="the model has no class 'bee'") as caught:
        match_classes(None, 5, FOREIGN, np.full(5, 4), "d", {"Biene": "bee"})
    assert caught.value.hint == "It has no class names: give a number from 0 to 4."
    assert match_classes(None, 5, FOREIGN, np.full(5, 4), "d", {"Biene": 1}).changed == (0,)


def test_labels_beyond_the_model_can_be_placed_or_left_out() -> None:
    counts = np.array([0, 4, 4, 4, 4, 4])
    with pytest.raises(MismatchError, match="labels from 2 to 5, the model only 5 classes") as caught:
        match_classes(None, 5, None, counts, "d", {"1": 0})
    assert "`5=` leaves the images of class 5 out" in caught.value.hint
    match = match_classes(None, 5, None, counts, "d", {"1": 0, "5": None})
    assert known(match.place).tolist()[1:] == [0, 2, 3, 4, -1]
    assert match.changed == (1,)  # without the match, images of class 5 are refused; they are not placed either way
    assert "4 images of 1 class left out, as the match by hand says: label 5." in match.notes


def test_a_match_against_names_that_both_know_is_a_doubt() -> None:
    match = match_classes(ANIMALS, 5, ANIMALS[:3], np.full(3, 4), "d", {"ant": "bee"})
    assert flag_names(match.flags) == {"class match": "warning"}
    assert "'ant' counts as class 1 ('bee'), and the model has it as class 0" in match.flags[0].evidence
    assert "2 classes of the data count as class 1 ('bee') of the model: 'ant', 'bee'." in match.notes
    assert match_classes(ANIMALS, 5, ANIMALS[:3], np.full(3, 4), "d", {"ant": None}).flags == ()


def test_a_model_without_names_takes_those_of_the_data() -> None:
    images, labels = answers(named(None))
    data = ImageDataset(images, labels, FOREIGN, sha256="d" * 64)
    spec = AuditSpec.load(SPEC | {"samples": None, "match": {"Biene": 4, "Aal": 4, "Hund": None}})
    model = run(spec, named(None), data).provenance.model
    # Label 3, Hund, is left out; nothing counts as class 0 or 3.
    assert model.class_names == ("class 0", "Katze", "Ameise", "class 3", "Biene + Aal")


def test_ways_to_begin_the_table() -> None:
    def ways(model: tuple[str, ...] | None, data: tuple[str, ...] | None, counts: list[int]) -> dict[str, list[int]]:
        used = np.flatnonzero(counts)
        sides = Sides(model, 3, data, np.array(counts), "d")
        return {way: places[used].tolist() for way, places in proposals(sides).items()}

    abc = ("ant", "bee", "cat")
    assert ways(abc, ("cat", "ant"), [4, 4]) == {"automatic": [2, 0], "number": [0, 1]}
    assert ways(abc, ("cat", "frog"), [4, 4]) == {"automatic": [0, 1], "name": [2, -1]}
    assert ways(abc, ("fish", "frog"), [4, 4]) == {"automatic": [0, 1]}
    assert ways(None, None, [0, 4, 4, 4]) == {"automatic": [1, 2, -1], "one": [0, 1, 2]}
    assert ways(None, None, [4, 4, 4]) == {"automatic": [0, 1, 2]}
    one = Sides(None, 3, None, np.array([0, 4, 4, 4]), "d")
    with pytest.raises(MismatchError):
        one.match()
    chosen = by_hand(one, proposals(one)["one"])
    assert chosen == {"1": 0, "2": 1, "3": 2}
    assert known(one.match(chosen).place)[1:].tolist() == [0, 1, 2]


def test_what_is_stored_without_a_match_is_as_before() -> None:
    spec = AuditSpec.load(SPEC)
    assert "match" not in spec.model_dump(mode="json")
    assert AuditSpec.load(AuditSpec.load(SPEC | {"match": {"a": None}}).model_dump_json()).match == {"a": None}
    classifier, data, _ = in_another_language()
    stored = json.loads(run(AuditSpec.load(SPEC), classifier, data).model_dump_json())
    del stored["provenance"]["classes"]
    older = AuditResult.load(json.dumps(stored))
    assert older.provenance.classes is None
    assert "Classes of the data" not in render(older)
