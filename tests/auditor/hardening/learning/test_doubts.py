"""Doubts about a training: clean accuracy that was paid for no robustness."""

from __future__ import annotations

import pytest
from scipy.stats import fisher_exact

from auditor.hardening.learning.doubts import doubts
from auditor.hardening.result import BestWeights, TrainingPoint
from auditor.hardening.spec import TrainingSpec
from auditor.kit.statistics.estimate import Rate

Hits = tuple[tuple[int, int], tuple[int, int]]
NAME = "clean accuracy paid for nothing"


@pytest.mark.parametrize(
    ("hits", "flagged"),
    [
        (((180, 130), (20, 24)), True),  # 25 points for 2, which chance explains
        (((180, 130), (20, 20)), True),
        (((180, 130), (20, 60)), False),  # 25 points for 20
        (((180, 150), (20, 20)), False),  # 15 points
        (((180, 130), (20, 10)), True),  # and robustness went too
    ],
)
def test_much_clean_accuracy_for_a_gain_of_chance_is_a_flag(hits: Hits, flagged: bool) -> None:
    (clean_before, clean_after), (before, after) = hits
    start = TrainingPoint(
        step=0, epoch=0, learning_rate=0.1, clean=Rate.count(clean_before, 200), robust=Rate.count(before, 200)
    )
    best = BestWeights(epoch=1, clean=Rate.count(clean_after, 200), robust=Rate.count(after, 200))
    spec = TrainingSpec.load({})
    flags = {flag.name: flag for flag in doubts(spec, [start], best, "finished", 10)}
    assert (NAME in flags) == flagged
    if flagged:
        p = fisher_exact([[after, 200 - after], [before, 200 - before]], alternative="greater").pvalue
        assert f"(p = {p:.2g})" in flags[NAME].evidence
    for other, points in ((spec, []), (TrainingSpec.load({"from_scratch": True}), [start])):
        assert NAME not in {flag.name for flag in doubts(other, points, best, "finished", 10)}, (
            "no parent to compare with"
        )
