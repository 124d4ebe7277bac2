"""Twins at several radii: in order, within each of them, and gone afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from auditor.neural.twins.radii import at_radii
from auditor.neural.twins.targeted import papers_pgd
from tests.auditor.neural.analyses.given import attacked
from tests.nets import labelled, small_classifier


def test_every_radius_once_ascending_and_no_file_stays(tmp_path: Path) -> None:
    classifier = small_classifier()
    heard: list[float] = []
    subject = attacked(classifier, labelled(classifier, n=12), tmp_path, epsilon=0.1)
    subject = replace(subject, on_progress=lambda share, _: heard.append(share))
    before = sorted(subject.folder.rglob("*"))
    epsilons = []
    for epsilon, twins in at_radii(subject, papers_pgd(subject, 3), (1.0, 0.25, 1.0)):
        epsilons.append(epsilon)
        moved = torch.cat([(pair.x_adv - pair.x).abs().flatten(1).amax(1) for pair in twins])
        assert len(moved) == 12
        assert moved.max().item() == pytest.approx(epsilon, rel=1e-4)
    assert epsilons == pytest.approx([0.025, 0.1])
    assert sorted(subject.folder.rglob("*")) == before
    assert heard == sorted(heard)
    assert heard[-1] == 1
