"""Threat models: projection, steepest direction, sampling and distance, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from auditor.randomness import RowRandom
from auditor.threat import Norm, ThreatModel, show_epsilon

norms = pytest.mark.parametrize("norm", list(Norm))
SIZE = (4, 3, 5, 5)


def length(delta: torch.Tensor, norm: Norm) -> np.ndarray:
    """The norm by numpy, as the outside oracle."""
    order = {"linf": np.inf, "l2": 2}[norm.value]
    return np.array([np.linalg.norm(row.double().flatten().numpy(), order) for row in delta])


@norms
@given(seed=st.integers(0, 10_000), epsilon=st.floats(1e-3, 3), size=st.floats(1e-3, 10))
@settings(max_examples=40, deadline=None)
def test_projection_lands_in_ball_and_box_and_keeps_what_is_inside(
    norm: Norm, seed: int, epsilon: float, size: float
) -> None:
    torch.manual_seed(seed)
    x = torch.rand(SIZE, dtype=torch.float64)
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    projected = threat.project(x + size * torch.randn_like(x), x)
    assert (length(projected - x, norm) <= epsilon * (1 + 1e-9)).all()
    assert projected.min() >= 0
    assert projected.max() <= 1
    assert torch.allclose(threat.project(projected, x), projected, atol=1e-12)


def test_the_l2_ball_projection_is_the_nearest_point() -> None:
    torch.manual_seed(0)
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    point = x + torch.randn_like(x) * 0.4
    threat = ThreatModel(norm=Norm.L2, epsilon=0.2)
    # Without an active box the nearest point of a ball is found by a constrained minimiser, too.
    start = np.zeros(4)
    found = optimize.minimize(
        lambda d: ((d - (point - x).flatten().numpy()) ** 2).sum(),
        start,
        constraints={"type": "ineq", "fun": lambda d: 0.2**2 - (d**2).sum()},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert np.allclose((threat.project(point, x) - x).flatten().numpy(), found.x, atol=1e-6)


@norms
def test_the_steepest_direction_has_unit_norm_and_reaches_the_dual_norm(norm: Norm) -> None:
    torch.manual_seed(1)
    gradient = torch.randn(SIZE, dtype=torch.float64)
    direction = ThreatModel(norm=norm, epsilon=1).steepest(gradient)
    assert np.allclose(length(direction, norm), 1)
    # Hölder: the largest inner product over the unit ball is the dual norm of the gradient (L1 for Linf, L2 for L2).
    dual = [np.linalg.norm(row.flatten().numpy(), {"linf": 1, "l2": 2}[norm.value]) for row in gradient]
    assert np.allclose((direction * gradient).flatten(1).sum(1).numpy(), dual)


@norms
def test_a_zero_gradient_gives_no_direction_and_a_tiny_one_a_full_step(norm: Norm) -> None:
    threat = ThreatModel(norm=norm, epsilon=1)
    assert not threat.steepest(torch.zeros(SIZE)).any()
    tiny = torch.full(SIZE, 1e-30)
    assert np.allclose(length(threat.steepest(tiny), norm), 1, atol=1e-5)


def test_samples_are_uniform_in_the_ball() -> None:
    rows = 3000
    x = torch.zeros(rows, 1, 1, 3, dtype=torch.float64)
    random = RowRandom(0, "test", [(row,) for row in range(rows)])
    ball = ThreatModel(norm=Norm.L2, epsilon=2.0).sample(x, random)
    radius = length(ball, Norm.L2) / 2
    # In a ball of dimension 3 the cube of the relative radius is uniform on [0, 1].
    assert stats.kstest(radius**3, "uniform").pvalue > 0.001
    cube = ThreatModel(norm=Norm.LINF, epsilon=0.5).sample(x, random).flatten().numpy()
    assert stats.kstest(cube + 0.5, "uniform").pvalue > 0.001


def test_random_numbers_belong_to_the_row_and_not_to_the_batch() -> None:
    like = torch.zeros(3, 2, 2)
    together = RowRandom(7, "start", [(0, 0), (1, 0), (2, 0)]).normal(like)
    alone = RowRandom(7, "start", [(1, 0)]).normal(like[:1])
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(RowRandom(8, "start", [(1, 0)]).normal(like[:1]), alone)
    assert not torch.equal(RowRandom(7, "other", [(1, 0)]).normal(like[:1]), alone)


def test_epsilon_is_read_and_shown_as_people_write_it() -> None:
    assert ThreatModel(epsilon="8/255").epsilon == 8 / 255
    assert str(ThreatModel(epsilon="8/255")) == "L∞ ε = 8/255"
    assert [show_epsilon(value) for value in (8 / 255, 0.5 / 255, 0.1, 0.5, 3.0)] == [
        "8/255",
        "0.5/255",
        "0.1",
        "0.5",
        "3",
    ]


@pytest.mark.parametrize("bad", ["8/0", "eight/255", 0, -1, "nan", "inf"])
def test_an_unusable_epsilon_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        ThreatModel(epsilon=bad)
