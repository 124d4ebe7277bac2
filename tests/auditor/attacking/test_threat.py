"""Threat models: projection, steepest direction, sampling and distance, against their definitions."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from auditor.attacking.geometry import largest
from auditor.attacking.threat import Norm, ThreatModel, show_epsilon
from auditor.kit.errors import SpecError
from auditor.kit.randomness import RowRandom

norms = pytest.mark.parametrize("norm", list(Norm))
smooth = pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L1])
SIZE = (4, 3, 5, 5)


def length(delta: torch.Tensor, norm: Norm) -> np.ndarray:
    """The norm by numpy, as the outside oracle."""
    if norm is Norm.L0:
        return (delta != 0).any(1).sum((1, 2)).numpy()
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm.value]
    return np.array([np.linalg.norm(row.double().flatten().numpy(), order) for row in delta])


@norms
@given(seed=st.integers(0, 10_000), epsilon=st.floats(1e-3, 3), size=st.floats(1e-3, 10))
@settings(max_examples=40, deadline=None)
def test_projection_lands_in_ball_and_box_and_keeps_what_is_inside(
    norm: Norm, seed: int, epsilon: float, size: float
) -> None:
    torch.manual_seed(seed)
    x = torch.rand(SIZE, dtype=torch.float64)
    threat = ThreatModel(norm=norm, epsilon=max(1, int(4 * epsilon)) if norm is Norm.L0 else epsilon).ball(x)
    epsilon = float(threat.epsilon[0])
    projected = threat.project(x + size * torch.randn_like(x), x)
    assert (length(projected - x, norm) <= epsilon * (1 + 1e-9)).all()
    assert projected.min() >= 0
    assert projected.max() <= 1
    assert torch.allclose(threat.project(projected, x), projected, atol=1e-12)


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1])
def test_the_ball_projection_is_the_nearest_point(norm: Norm) -> None:
    torch.manual_seed(0)
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    point = x + torch.randn_like(x) * 0.4
    threat = ThreatModel(norm=norm, epsilon=0.2).ball(x)
    order = {"l2": 2, "l1": 1}[norm.value]
    # Without an active box the nearest point of a ball is found by a constrained minimizer, too.
    start = np.zeros(4)
    found = optimize.minimize(
        lambda d: ((d - (point - x).flatten().numpy()) ** 2).sum(),
        start,
        constraints={"type": "ineq", "fun": lambda d: 0.2**order - (np.abs(d) ** order).sum()},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert np.allclose((threat.project(point, x) - x).flatten().numpy(), found.x, atol=1e-5)


@smooth
def test_the_steepest_direction_has_unit_norm_and_reaches_the_dual_norm(norm: Norm) -> None:
    torch.manual_seed(1)
    gradient = torch.randn(SIZE, dtype=torch.float64)
    direction = ThreatModel(norm=norm, epsilon=1).ball(gradient).steepest(gradient, torch.full_like(gradient, 0.5))
    assert np.allclose(length(direction, norm), 1)
    # Hölder: the largest inner product over the unit ball is the dual norm of the gradient (L1 for Linf, L2 for L2).
    # L1 moves 5 % of these 75 entries alike, which are four: it reaches the mean of the four largest.
    orders: dict[str, Callable[[np.ndarray], np.floating]] = {
        "linf": lambda g: np.abs(g).sum(),
        "l2": np.linalg.norm,
        "l1": lambda g: np.sort(np.abs(g))[-4:].mean(),
    }
    dual = [orders[norm.value](row.flatten().numpy()) for row in gradient]
    assert np.allclose((direction * gradient).flatten(1).sum(1).numpy(), dual)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), kinds=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_of_equal_entries_the_first_are_the_largest(seed: int, count: int, kinds: int) -> None:
    """Beside numpy's stable order; in L1 a step must not depend on how a processor breaks a tie."""
    values = np.random.default_rng(seed).integers(0, kinds, (3, 12)).astype(np.float32)
    expected = np.zeros_like(values, bool)
    np.put_along_axis(expected, (-values).argsort(1, kind="stable")[:, :count], True, axis=1)
    assert np.array_equal(largest(torch.from_numpy(values), count).numpy(), expected)


@smooth
def test_a_zero_gradient_gives_no_direction_and_a_tiny_one_a_full_step(norm: Norm) -> None:
    threat = ThreatModel(norm=norm, epsilon=1).ball(torch.zeros(SIZE))
    assert not threat.steepest(torch.zeros(SIZE), torch.zeros(SIZE)).any()
    tiny = torch.full(SIZE, 1e-30)
    assert np.allclose(length(threat.steepest(tiny, tiny + 0.5), norm), 1, atol=1e-5)


def test_samples_are_uniform_in_the_ball() -> None:
    rows = 3000
    x = torch.zeros(rows, 1, 1, 3, dtype=torch.float64)
    random = RowRandom(0, "test", [(row,) for row in range(rows)])
    ball = ThreatModel(norm=Norm.L2, epsilon=2.0).ball(x).sample(x, random)
    radius = length(ball, Norm.L2) / 2
    # In a ball of dimension 3 the cube of the relative radius is uniform on [0, 1].
    assert stats.kstest(radius**3, "uniform").pvalue > 0.001
    cube = ThreatModel(norm=Norm.LINF, epsilon=0.5).ball(x).sample(x, random).flatten().numpy()
    assert stats.kstest(cube + 0.5, "uniform").pvalue > 0.001
    octahedron = ThreatModel(norm=Norm.L1, epsilon=2.0).ball(x).sample(x, random)
    assert stats.kstest((length(octahedron, Norm.L1) / 2) ** 3, "uniform").pvalue > 0.001
    # Given the norm, the share of one coordinate among three is Beta(1, 2), and its sign is even.
    share = octahedron.flatten(1).abs()[:, 0] / octahedron.flatten(1).abs().sum(1)
    assert stats.kstest(share.numpy(), "beta", args=(1, 2)).pvalue > 0.001
    assert stats.binomtest(int((octahedron > 0).sum()), 3 * rows).pvalue > 0.001


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


@smooth
@pytest.mark.parametrize("far", [False, True])
def test_the_step_onto_a_plane_is_the_smallest_one_in_the_box(norm: Norm, far: bool) -> None:
    """Beside linear and quadratic programs of scipy."""
    generator = np.random.default_rng(3)
    for trial in range(12):
        x, normal = generator.random(6), generator.normal(size=6)
        offset = -float(normal @ x) + (generator.normal() * (3 if far else 0.3))
        start, slope = (torch.tensor(item).view(1, 1, 2, 3) for item in (x, normal))
        ball = ThreatModel(norm=norm).ball(torch.zeros(1))
        step = ball.onto_plane(start, slope, torch.tensor([offset], dtype=torch.float64)).flatten().numpy()
        assert (x + step >= -1e-9).all()
        assert (x + step <= 1 + 1e-9).all()
        reach = np.where(-np.sign(normal @ x + offset) * normal > 0, 1 - x, x)
        if np.abs(normal) @ reach < abs(normal @ x + offset):  # the box does not meet the plane
            assert np.allclose(np.abs(step), reach)
            continue
        assert abs(normal @ (x + step) + offset) < 1e-8
        order = {Norm.LINF: np.inf, Norm.L2: 2, Norm.L1: 1}[norm]
        assert np.linalg.norm(step, order) == pytest.approx(smallest(x, normal, offset, norm), abs=1e-5), trial


def smallest(x: np.ndarray, normal: np.ndarray, offset: float, norm: Norm) -> float:
    """Norm of the smallest step d with normal.(x + d) + offset = 0 and x + d in the box."""
    n, value = len(x), float(normal @ x + offset)
    if norm is Norm.L2:
        found = optimize.minimize(
            lambda d: d @ d / 2, np.zeros(n), jac=lambda d: d, bounds=list(zip(-x, 1 - x, strict=True)), method="SLSQP",
            constraints={"type": "eq", "fun": lambda d: normal @ d + value, "jac": lambda d: normal},
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        return float(np.linalg.norm(found.x))
    # d = p - q with p, q >= 0; in L∞ one bound t over all, in L1 the sum.
    extra = 1 if norm is Norm.LINF else 0
    cost = np.r_[np.zeros(2 * n), 1.0] if extra else np.ones(2 * n)
    equal = np.r_[normal, -normal, np.zeros(extra)][None]
    above = np.c_[np.eye(n), np.eye(n), -np.ones((n, 1))] if extra else None
    bounds = [(0, 1 - value) for value in x] + [(0, value) for value in x] + [(0, None)] * extra
    zero = np.zeros(n) if extra else None
    return float(optimize.linprog(cost, A_eq=equal, b_eq=[-value], A_ub=above, b_ub=zero, bounds=bounds).fun)


@pytest.mark.parametrize(
    ("norm", "epsilon", "hint"),
    [
        ("linf", 8, "Did you mean 8/255?"),
        ("linf", 1.5, "Did you mean 1.5/255?"),
        ("linf", 1000, "Give a number up to 1."),
        ("l2", 128, "Did you mean 128/255?"),
        ("l1", 5000, "Did you mean 5000/255?"),
        ("l0", 1025, "Give a number up to 1024."),
    ],
)
def test_an_epsilon_beyond_all_images_is_refused_and_the_remedy_works(norm: str, epsilon: float, hint: str) -> None:
    with pytest.raises(SpecError, match=r"no two images of 3x32x32 are farther apart") as refused:
        ThreatModel(norm=norm, epsilon=epsilon).check((3, 32, 32))
    assert refused.value.hint == hint
    remedy = re.findall(r"\d+(?:\.\d+)?(?:/\d+)?", hint)[0]
    ThreatModel(norm=norm, epsilon=remedy if "/" in remedy else float(remedy)).check((3, 32, 32))


@pytest.mark.parametrize("norm", list(Norm))
def test_an_epsilon_that_reaches_the_farthest_image_is_taken(norm: Norm) -> None:
    ThreatModel(norm=norm, epsilon=norm.largest((3, 32, 32))).check((3, 32, 32))
