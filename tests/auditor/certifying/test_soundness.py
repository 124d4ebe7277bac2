"""No point of a region falls below a bound: random networks, many points, and exact minima by integer programming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds as Box
from scipy.optimize import LinearConstraint, linprog, milp, minimize
from torch import Tensor, nn

from auditor.attacking.threat import Norm, ThreatModel
from auditor.certifying.bounds import Bounds, rounding
from auditor.certifying.certificate import CERTIFICATES
from auditor.certifying.network import BoundableNetwork
from auditor.certifying.region import Region
from auditor.kit.randomness import RowRandom
from auditor.models.classifier import Classifier
from tests.auditor.certifying.networks import KINDS, SHAPE, random_classifier

RADII = {Norm.LINF: (0.005, 0.1), Norm.L2: (0.05, 1.0), Norm.L1: (0.2, 4.0)}
REACH = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3]])
LEAVE = torch.tensor([0, 1, 2])


def images(count: int = 3, seed: int = 0) -> Tensor:
    """Some of the pixels lie on the border of the box."""
    drawn = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return (1.4 * drawn - 0.2).clamp(0, 1)


def points(region: Region, network: BoundableNetwork, count: int) -> list[Tensor]:
    """Uniform points, corners, and points that descend the difference of two logits; each (B, C, H, W) in the region."""
    x = region.images
    ball = region.threat.ball(x)
    rows = [RowRandom(0, "points", [(seed, row) for row in range(len(x))]) for seed in range(count)]
    found = [ball.project(ball.sample(x, random), x) for random in rows]
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.double)
        found.append(ball.project(x + 10 * region.threat.epsilon * direction.sign(), x))
    for target in range(REACH.shape[1]):
        point = x.clone()
        for _ in range(10):
            point.requires_grad_()
            logits = network(point)
            lead = logits.gather(1, LEAVE[:, None]) - logits.gather(1, REACH[:, [target]])
            (gradient,) = torch.autograd.grad(lead.sum(), point)
            step = region.threat.epsilon / 4 * ball.steepest(-gradient, point.detach())
            point = ball.project(point.detach() + step, x)
            found.append(point)
    return found


def leads(logits: Tensor) -> Tensor:
    return logits.gather(1, LEAVE[:, None]) - logits.gather(1, REACH)


@pytest.mark.parametrize("norm", list(RADII))
@pytest.mark.parametrize("kind", list(KINDS))
def test_no_point_falls_below_a_bound(kind: str, norm: Norm) -> None:
    for seed in range(2):
        network = BoundableNetwork(random_classifier(kind, seed))
        margins = rounding(network)
        for epsilon in RADII[norm]:
            region = Region(ThreatModel(norm=norm, epsilon=epsilon), images(seed=seed))
            tried = points(region, network, 30)
            with torch.no_grad():
                least = torch.stack([leads(network(point)) for point in tried]).amin(0)
                for certificate in [*CERTIFICATES.members, "crown:both=true"]:
                    bound = CERTIFICATES.parse(certificate).least(network, region, margins, LEAVE, REACH)
                    assert (bound <= least).all(), (certificate, seed, epsilon)


@pytest.mark.parametrize("norm", list(RADII))
@pytest.mark.parametrize("kind", list(KINDS))
def test_where_no_activation_can_change_its_side_the_bound_is_the_minimum(kind: str, norm: Norm) -> None:
    """There the network is linear: the lead, less the least of its gradient over the region."""
    network, epsilon = BoundableNetwork(random_classifier(kind, 7)), 1e-6
    margins = rounding(network)
    x = images().requires_grad_()
    region = Region(ThreatModel(norm=norm, epsilon=epsilon), x.detach())
    now = leads(network(x))
    with torch.no_grad():
        found = CERTIFICATES.build("crown", {}).least(network, region, margins, LEAVE, REACH)
    for target in range(REACH.shape[1]):
        (gradient,) = torch.autograd.grad(now[:, target].sum(), x, retain_graph=True)
        row, image = gradient.flatten(1), torch.arange(len(x))
        fall = region.least(gradient, image, tight=True) - (row * x.detach().flatten(1)).sum(1)
        assert torch.allclose(
            found[:, target], now[:, target].detach() + fall, rtol=0, atol=3 * float(margins[-1].max())
        )
        assert (fall < -1e-9).all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_inner_values_stay_within_their_intervals(kind: str) -> None:
    network = BoundableNetwork(random_classifier(kind, 1))
    for norm, (_, epsilon) in RADII.items():
        region = Region(ThreatModel(norm=norm, epsilon=epsilon), images())
        tried = points(region, network, 10)
        for backward, both in ((False, False), (True, False), (True, True)):
            with torch.no_grad():
                bounds = Bounds(network, region, rounding(network), backward, both)
                for point in tried:
                    for value, interval in zip(network.values(point), bounds.intervals, strict=False):
                        assert (interval.low <= value + 1e-12).all()
                        assert (value <= interval.high + 1e-12).all()


def exact_minimum(weights: list[np.ndarray], biases: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> float:
    """The least of the last (single) output of a ReLU network over a box, by mixed-integer programming (Tjeng et al. 2019).

    Variables: the image, then for every hidden neuron its value before and after the ReLU and whether it is active.
    """
    sizes = [weight.shape[0] for weight in weights[:-1]]
    before = len(low)
    total = before + 3 * sum(sizes)
    lower, upper, whole = np.full(total, -np.inf), np.full(total, np.inf), np.zeros(total)
    lower[:before], upper[:before] = low, high
    rows, floor, ceiling = [], [], []

    def need(coefficients: dict[int, float], least: float, most: float) -> None:
        row = np.zeros(total)
        for at, value in coefficients.items():
            row[at] += value
        rows.append(row)
        floor.append(least)
        ceiling.append(most)

    inputs, at, (a, b) = list(range(before)), before, (low, high)
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        least = weight.clip(min=0) @ a + weight.clip(max=0) @ b + bias
        most = weight.clip(min=0) @ b + weight.clip(max=0) @ a + bias
        outputs = []
        for neuron in range(len(bias)):
            pre, post, active = at, at + 1, at + 2
            at += 3
            lower[post], lower[active], upper[active], whole[active] = 0, 0, 1, 1
            need(
                {pre: 1.0, **{i: -float(w) for i, w in zip(inputs, weight[neuron], strict=True)}},
                bias[neuron],
                bias[neuron],
            )
            need({post: 1.0, pre: -1.0}, 0, np.inf)
            need({post: 1.0, pre: -1.0, active: -min(least[neuron], 0.0)}, -np.inf, -min(least[neuron], 0.0))
            need({post: 1.0, active: -max(most[neuron], 0.0)}, -np.inf, 0)
            outputs.append(post)
        inputs, a, b = outputs, least.clip(min=0), most.clip(min=0)
    cost = np.zeros(total)
    cost[inputs] = weights[-1][0]
    found = milp(
        cost, integrality=whole, bounds=Box(lower, upper), constraints=LinearConstraint(np.array(rows), floor, ceiling)
    )
    assert found.success
    return float(found.fun + biases[-1][0])


def test_exact_minima_by_integer_programming_are_never_below() -> None:
    gaps = []
    for seed in range(20):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        classifier = Classifier(network, input_shape=(1, 2, 2), num_classes=3)
        boundable, x = BoundableNetwork(classifier), torch.rand(1, 1, 2, 2, dtype=torch.double)
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        weights = [layer.weight.detach().double().numpy() for layer in layers]
        biases = [layer.bias.detach().double().numpy() for layer in layers]
        difference = np.array([[1.0, -1.0, 0.0]])
        weights[-1], biases[-1] = difference @ weights[-1], difference @ biases[-1]
        for epsilon in (0.02, 0.2):
            region = Region(ThreatModel(epsilon=epsilon), x)
            exact = exact_minimum(weights, biases, region.low.flatten().numpy(), region.high.flatten().numpy())
            for certificate in CERTIFICATES.members:
                bound = CERTIFICATES.build(certificate, {}).least(
                    boundable, region, rounding(boundable), torch.tensor([0]), torch.tensor([[1]])
                )
                assert float(bound) <= exact + 1e-7
                if certificate == "crown" and epsilon == 0.02:
                    gaps.append(exact - float(bound))
    assert sum(gap < 1e-6 for gap in gaps) >= 5  # where no neuron can change its sign, the bound is the minimum
    assert max(gaps) < 0.05


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L1, Norm.L2])
def test_the_least_of_a_linear_function_is_that_of_an_optimizer(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    for trial in range(8):
        x = (torch.rand(1, 1, 2, 3, generator=generator, dtype=torch.double) * 1.5 - 0.25).clamp(0, 1)
        row = torch.randn(1, 1, 2, 3, generator=generator, dtype=torch.double)
        epsilon = (0.05, 0.3, 0.8, 1.5)[trial % 4] if norm is not Norm.LINF else (0.05, 0.3)[trial % 2]
        region = Region(ThreatModel(norm=norm, epsilon=epsilon), x)
        found = float(region.least(row, torch.tensor([0]), tight=True))
        cost, center = row.flatten().numpy(), x.flatten().numpy()
        if norm is Norm.L2:
            shift = [{"type": "ineq", "fun": lambda z, c=center, e=epsilon: e**2 - ((z - c) ** 2).sum()}]
            solved = minimize(
                lambda z, a=cost: a @ z, center, jac=lambda z, a=cost: a, bounds=[(0, 1)] * 6, constraints=shift,
                method="SLSQP", options={"ftol": 1e-12, "maxiter": 500},
            )  # fmt: skip
            assert found == pytest.approx(solved.fun, abs=1e-5)
            assert found <= solved.fun + 1e-9
            assert float(region.least(row, torch.tensor([0]), tight=False)) <= found
        else:
            parts = np.concatenate([cost, -cost])  # what is added, what is taken away
            room = np.concatenate([1 - center, center])
            reach = np.minimum(room, epsilon) if norm is Norm.LINF else room
            limit = {} if norm is Norm.LINF else {"A_ub": np.ones((1, 12)), "b_ub": [epsilon]}
            solved = linprog(parts, bounds=list(zip(np.zeros(12), reach, strict=True)), **limit)
            assert found == pytest.approx(solved.fun + cost @ center, abs=1e-9)
