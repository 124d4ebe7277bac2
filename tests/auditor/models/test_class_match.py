"""Labels by name and by number: a data set in another order than its model, with gaps, or with names that contradict it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from auditor.auditing.audit import run
from auditor.auditing.spec import AuditSpec
from auditor.auditing.vet import vet
from auditor.kit.errors import MismatchError, SpecError
from auditor.kit.flag import Flag
from auditor.models.class_match import ClassMatch, match_classes, matched
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.report.comparison import compare
from auditor.report.html import render
from tests.narrow import sequence
from tests.nets import SHAPE, mnist_plain, random_images, small_classifier, small_cnn

SPEC = {
    "threats": [{"norm": "linf", "epsilon": 0.02}],
    "attacks": [{"kind": "fgsm"}],
    "analyses": [],
    "curve": [],
    "checks": [],
}
ANIMALS = ("ant", "bee", "cat", "dog", "eel")


def named(names: tuple[str, ...] | None) -> Classifier:
    """A random network whose answers spread over all classes."""
    network = sequence(small_cnn())
    images = torch.from_numpy(random_images(500, seed=1)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = network.eval()(images)
        network[-1].weight /= logits.std(0)[:, None]
        network[-1].bias.copy_((network[-1].bias - logits.mean(0)) / logits.std(0))
    return Classifier(network, input_shape=SHAPE, num_classes=5, class_names=names)


def answers(classifier: Classifier, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Images, and the model's own answers."""
    images = random_images(n)
    data = ImageDataset(images, np.zeros(n, np.int64))
    return images, classifier.logits(data.images(np.arange(n))).argmax(1).numpy()


def in_another_order(n: int = 60) -> tuple[Classifier, ImageDataset, np.ndarray]:
    """A model that is always right, its data in the reverse order of classes, and the labels in the model's."""
    classifier = named(ANIMALS)
    images, labels = answers(classifier, n)
    return classifier, ImageDataset(images, 4 - labels, ANIMALS[::-1], sha256="d" * 64, name="reversed"), labels


def flag_names(flags: Iterable[Flag]) -> dict[str, str]:
    return {flag.name: flag.severity for flag in flags}


def test_an_audit_and_a_vetting_match_labels_by_name() -> None:
    classifier, data, labels = in_another_order()
    result = run(AuditSpec.load(SPEC | {"samples": None}), classifier, data)
    assert (result.clean_accuracy.value, result.samples.labels) == (1.0, labels.tolist())
    assert "'bee' is label 3 of the data set and class 1 of the model" in result.provenance.dataset.notes[0]
    assert result.flags == ()
    assert "matched by name" in render(result)
    assert result.provenance.dataset.class_names == ANIMALS
    card = vet(classifier, data)
    assert card.accuracy is not None
    assert card.accuracy.value == 1.0
    assert card.notes == result.provenance.dataset.notes


def test_spelling_does_not_matter() -> None:
    counts = np.array([3, 3, 3])
    match = match_classes(("T-shirt/top", "Ankle boot", "02"), 3, ("2", "ankle_boot", "t shirt TOP"), counts, "d")
    assert match.place is not None
    assert match.place.tolist() == [2, 1, 0]


def test_names_in_the_model_s_own_order_say_nothing() -> None:
    assert match_classes(ANIMALS, 5, ANIMALS, np.ones(5, np.int64), "d") == ClassMatch(None)
    assert match_classes(None, 5, ANIMALS, np.ones(5, np.int64), "d") == ClassMatch(None)
    assert match_classes(ANIMALS, 5, tuple("01234"), np.ones(5, np.int64), "d") == ClassMatch(None)


def test_numbers_that_contradict_their_labels_are_severe() -> None:
    match = match_classes(("0", "1", "2"), 3, ("1", "0", "2"), np.array([4, 4, 4]), "d")
    assert match.place is not None
    assert match.place.tolist() == [1, 0, 2]
    assert flag_names(match.flags) == {"class names": "severe"}
    assert "'1' is label 0 of the data set and class 1 of the model" in match.flags[0].evidence
    assert flag_names(match_classes(None, 3, ("1", "0", "2"), np.array([4, 4, 4]), "d").flags) == {
        "class names": "warning"
    }
    # Counted from 1: names of people, not of places.
    assert match_classes(None, 3, ("1", "2", "3"), np.array([4, 4, 4]), "d") == ClassMatch(None)


@pytest.mark.parametrize(
    ("names", "severity", "words"),
    [
        (("bird", "fish", "frog"), "severe", "no name is common to both"),
        (("bee", "ant", "frog"), "severe", "2 of 3 names are common"),
        (("ant", "bee", "frog"), "warning", "each at the same place"),
    ],
)
def test_names_that_the_model_does_not_know(names: tuple[str, ...], severity: str, words: str) -> None:
    match = match_classes(("ant", "bee", "cat"), 3, names, np.array([4, 4, 4]), "d")
    assert match.place is None
    assert flag_names(match.flags) == {"class names": severity}
    assert words in match.flags[0].evidence
    assert "'frog'" in match.flags[0].evidence


def test_an_unknown_class_without_images_does_not_matter() -> None:
    assert match_classes(("ant", "bee"), 2, ("ant", "bee", "background"), np.array([4, 4, 0]), "d") == ClassMatch(None)
    assert match_classes(None, 2, ("ant", "bee", "background"), np.array([4, 4, 0]), "d") == ClassMatch(None)


def test_gaps_are_said() -> None:
    match = match_classes(None, 5, None, np.array([4, 4, 0, 4]), "d")
    assert match == ClassMatch(
        None, (), ("The data set has images of 3 of the model's 5 classes, none of class 2, 4.",)
    )
    match = match_classes(ANIMALS, 5, ("ant", "dog"), np.array([4, 4]), "d")
    assert "none of class 1 ('bee'), 2 ('cat'), 4 ('eel')" in match.notes[-1]


def test_labels_that_count_from_one_get_a_remedy() -> None:
    with pytest.raises(MismatchError, match="labels from 1 to 5, the model only 5 classes") as caught:
        match_classes(None, 5, None, np.array([0, 4, 4, 4, 4, 4]), "d")
    assert "--first-label 1" in caught.value.hint
    with pytest.raises(MismatchError, match="labels from 0 to 5") as caught:
        match_classes(None, 5, None, np.array([4, 4, 4, 4, 4, 4]), "d")
    assert "first-label" not in caught.value.hint


def test_other_channels_are_not_a_matter_of_resizing() -> None:
    for wanted, came, words, not_words in (
        ((3, 6, 6), (1, 6, 6), "--channels 3", "--resize"),
        ((3, 8, 6), (3, 6, 6), "--resize 8x6", "--channels"),
        ((1, 8, 6), (3, 6, 6), "--channels 1", "nothing"),
    ):
        classifier = Classifier(nn.Flatten(), input_shape=wanted, num_classes=2)
        data = ImageDataset(random_images(2, came), np.array([0, 1]))
        with pytest.raises(MismatchError) as caught:
            matched(classifier, data)
        assert words in caught.value.hint
        assert not_words not in caught.value.hint


def test_old_class_folders_called_by_numbers_get_their_numbers() -> None:
    """As they were stored once: sorted as text, and without the numbers that have no images."""
    images = random_images(4)
    old = ImageDataset(images, np.array([0, 1, 2, 3]), ("0", "1", "10", "7"), sha256="d" * 64)
    new = old.by_number()
    assert new.labels.tolist() == [0, 1, 10, 7]
    assert new.class_names == tuple(map(str, range(11)))
    assert new.order_of_classes == (0, 1, 10, 7)
    assert (old.labels.tolist(), old.order_of_classes) == ([0, 1, 2, 3], ())
    for names in (("0", "1", "2", "3"), ("0", "1", "1440764", "7"), ("0", "1", "01", "7"), ANIMALS[:4], None):
        same = ImageDataset(images, np.array([0, 1, 2, 3]), names)
        assert same.by_number() is same


def test_a_target_class_by_name() -> None:
    classifier, data, labels = in_another_order()
    goal = {"kind": "targeted", "rule": "class", "target_class": "Bee"}
    result = run(AuditSpec.load(SPEC | {"goal": goal, "samples": None}), classifier, data)
    assert result.samples.labels == [label for label in labels.tolist() if label != 1]
    assert str(result.spec.goal) == "targeted (class Bee)"
    by_number = run(AuditSpec.load(SPEC | {"goal": goal | {"target_class": 1}, "samples": None}), classifier, data)
    assert [record.fooled for record in result.records] == [record.fooled for record in by_number.records]
    with pytest.raises(SpecError, match=r"no class 'wasp'.*'ant', 'bee'"):
        run(AuditSpec.load(SPEC | {"goal": goal | {"target_class": "wasp"}}), classifier, data)
    with pytest.raises(SpecError, match="have no names: give a number"):
        run(AuditSpec.load(SPEC | {"goal": goal}), small_classifier(), ImageDataset(*answers(small_classifier())))
    with pytest.raises(
        SpecError, match=r"target_class: expected the number of a class, from 0, or its name; got -1\.$"
    ):
        AuditSpec.load(SPEC | {"goal": goal | {"target_class": -1}})


def test_compare_wants_the_same_true_classes() -> None:
    classifier, data, _ = in_another_order()
    spec = AuditSpec.load(SPEC | {"samples": None})
    first = run(spec, classifier, data)
    other = Classifier(classifier.network, input_shape=SHAPE, num_classes=5, class_names=ANIMALS[::-1])
    assert compare(first, run(spec, other, data))  # labels differ, the classes that they name do not
    changed = run(spec, classifier, ImageDataset(data._images, (data.labels + 1) % 5, ANIMALS, sha256="d" * 64))
    with pytest.raises(MismatchError, match="do not agree on the true classes"):
        compare(first, changed)


def test_training_and_defenses_learn_the_matched_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auditor.defending import fit as defense_fit
    from auditor.defending.fit import FitSpec, fit
    from auditor.hardening import training
    from auditor.hardening.spec import TrainingSpec

    classifier, data, labels = in_another_order()
    seen: list[ImageDataset] = []

    def fit_stack(
        model: Classifier, defenses: object, dataset: ImageDataset, *rest: object, **options: object
    ) -> tuple[()]:
        seen.append(dataset)
        return ()

    monkeypatch.setattr(defense_fit, "fit_stack", fit_stack)
    fitted = fit(FitSpec.load({"defenses": [{"kind": "nip"}], "samples": 20}), classifier, data)
    assert seen[0].labels.tolist() == labels.tolist()
    assert "matched by name" in fitted.notes[0]

    spec = TrainingSpec.load({"hardening": {"kind": "fine_tune"}, "epochs": 1, "batch_size": 16})
    result = training.train(spec, classifier, data, folder=tmp_path)
    assert "matched by name" in result.notes[0]
    # The model was always right by name; by position it would have been right on the middle class only.
    assert result.points[0].clean is not None
    assert result.points[0].clean.value == 1.0


def test_real_labels_with_a_gap(shared: Path, tmp_path: Path) -> None:
    """MNIST's test images without the eights, as a zip of class folders: 98.39 % of the first 400, not 88.2 %."""
    import io
    import zipfile

    from PIL import Image

    from auditor.data.intake.datasets import take_dataset

    stored = np.load(shared / "data" / "mnist-test.npz")
    images, labels = stored["images"][:400], stored["labels"][:400]
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            if label != 8:
                Image.fromarray(image).save(stream := io.BytesIO(), "PNG")
                archive.writestr(f"{label}/{number}.png", stream.getvalue())
    manifest = take_dataset(tmp_path / "digits.zip", "digits.zip", tmp_path / "stored")
    assert manifest.warnings[-1] == "1 class has no images: '8'."
    classifier = mnist_plain(shared)
    card = vet(classifier, ImageDataset.open(tmp_path / "stored"))
    assert card.accuracy is not None
    assert (card.accuracy.hits, card.accuracy.n) == (367, 373)  # 98.39 %
    assert card.notes == ("The data set has images of 9 of the model's 10 classes, none of class 8 ('8').",)


def test_one_class_out_of_place_is_seen_without_any_names() -> None:
    """Labels 0 to 3, where the images are of the model's classes 0, 1, 2 and 4: most are right by position."""
    classifier = named(None)
    images, found = answers(classifier, 900)
    keep = (found != 3) & ((found != 4) | (np.arange(900) % 3 == 0))
    labels = np.where(found == 4, 3, found)[keep]
    share = float((labels == 3).mean())
    assert 0.02 < share < 0.12
    card = vet(classifier, ImageDataset(images[keep], labels), samples=900)
    assert flag_names(card.flags)["class order"] == "severe"
    # Chance gains nothing by a renaming: random labels of many classes are not another order.
    random = np.random.default_rng(0).integers(0, 5, 900)
    assert "class order" not in flag_names(vet(classifier, ImageDataset(images, random), samples=900).flags)
