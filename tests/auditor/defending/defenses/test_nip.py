"""NIP beside its formulas, written anew image by image in float64, and the facts that it must show."""

from __future__ import annotations

import inspect
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softmax

from auditor.defending.defense import DEFENSES
from auditor.defending.defenses.nip import NIP
from auditor.defending.defenses.nip_n import NIPNeurons
from auditor.defending.nip.candidates import (
    ObservedLayer,
    nearest_candidates,
    normalized,
    outputs,
    predicted_influence,
    similarity,
)
from auditor.kit.errors import EvaluationError
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.defended import FittedState
from auditor.models.drawing import View
from auditor.neural.influence.influence import split_parts
from tests.auditor.defending.defenses.small import images
from tests.narrow import sequence
from tests.nets import SHAPE, deeper_classifier, labelled, small_cnn

K1, K2, QUORUM = 2, 3, 0.8


def exact() -> Classifier:
    return deeper_classifier().double()


HEAD, BEFORE = "10", slice(0, 10)
"""The last linear layer of that network, and the layers before it, which give its input of 12 values."""


class ByHand:
    """NIP as algorithms 1 and 2 and equations 2 to 8 say, one image at a time, by autograd of the softmax confidence."""

    def __init__(self, classifier: Classifier, mode: str, literal: bool = False) -> None:
        self.classifier, self.mode, self.literal = classifier, mode, literal
        self.features = torch.nn.Sequential(*list(sequence(classifier))[BEFORE])
        self.head = sequence(classifier)[10]

    def order(self, x: Tensor) -> list[int]:
        """Neurons by influence, largest first."""
        z = self.features(self.classifier.normalize(x[None])).detach().requires_grad_()
        confidence = softmax(self.head(z), 1).max()
        (slope,) = torch.autograd.grad(confidence, z)
        influence = (slope * z)[0].tolist()
        return sorted(range(12), key=lambda neuron: (-influence[neuron], neuron))

    def prepare(self, x: Tensor) -> None:
        orders = [self.order(image) for image in x]
        rests = [order[K1 : 12 - K2] for order in orders]
        self.template = [n for n in range(12) if sum(n in rest for rest in rests) >= QUORUM * len(rests) - 1e-9]
        self.delta = [self.delta_of(rest) for rest in rests]
        self.rho = [self.rho_of(image, order) for image, order in zip(x, orders, strict=True)]

    def delta_of(self, rest: list[int]) -> float:
        if self.mode == "member":
            a, b = (np.array([float(n in part) for n in range(12)]) for part in (rest, self.template))
        else:
            a, b = np.array(rest, float), np.zeros(len(rest))
            b[: len(self.template)] = self.template
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def rho_of(self, image: Tensor, order: list[int]) -> Tensor:
        points = image[None].clone().requires_grad_()
        z = self.features(self.classifier.normalize(points))[0]
        total = sum((z[n] for n in order[:K1]), z.new_zeros(())) - sum(
            (z[n] for n in order[12 - K2 :]), z.new_zeros(())
        )
        (rho,) = torch.autograd.grad(-total if self.literal else total, points)
        return rho[0]

    def defended(self, image: Tensor) -> Tensor:
        delta = self.delta_of(self.order(image)[K1 : 12 - K2])
        gaps = [abs(delta - other) for other in self.delta]
        rho = self.rho[min(range(len(gaps)), key=lambda i: (gaps[i], self.delta[i], i))]
        return (image + image.mean() * rho / (rho.max() - rho.min())).clamp(0, 1)


@pytest.mark.parametrize("mode", ["index", "member"])
@pytest.mark.parametrize("literal", [False, True])
def test_nip_is_what_the_paper_says_step_by_step(mode: Any, literal: bool) -> None:
    classifier = exact()
    data = labelled(classifier, 30, wrong=4)
    nip = NIP(front=K1, tail=K2, quorum=QUORUM, similarity=mode, inputs=15, literal_sign=literal)
    state = nip.fit(classifier, data, np.arange(30), seed=0, batch_size=7)
    right = data.images(np.arange(4, 19)).double()  # the first 4 are misclassified; 15 candidates are wanted
    by_hand = ByHand(classifier, mode, literal)
    by_hand.prepare(right)
    assert state.tensors["template"].tolist() == by_hand.template
    assert torch.allclose(state.tensors["delta"], torch.tensor(sorted(by_hand.delta), dtype=torch.float64), atol=1e-12)
    model = nip.wrap(classifier, state)
    x = data.images(np.arange(19, 30)).double()
    got = nip.changed(classifier, x, model.passing(x))
    expected = torch.stack([by_hand.defended(image) for image in x])
    assert torch.allclose(got, expected, atol=1e-6), "candidates are kept in float32"
    assert torch.allclose(model.logits(x), classifier.logits(expected), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_by_log_odds_is_that_by_softmax(seed: int) -> None:
    classifier = deeper_classifier(seed).double()
    x = labelled(classifier, 20).images(np.arange(20)).double()
    by_hand = ByHand(classifier, "index")
    order = (
        predicted_influence(classifier, ObservedLayer.of(classifier, ""), x)
        .influence.sort(dim=1, descending=True, stable=True)
        .indices
    )
    assert order.tolist() == [by_hand.order(image) for image in x]


def test_a_small_step_along_rho_raises_front_minus_tail_and_the_printed_sign_lowers_it() -> None:
    classifier = exact()
    x = labelled(classifier, 20).images(np.arange(20)).double()
    place = ObservedLayer.of(classifier, "")
    parts = split_parts(predicted_influence(classifier, place, x).influence, K1, K2)

    def lead(points: Tensor) -> Tensor:
        values = outputs(classifier, place, points)
        return values.gather(1, parts.front).sum(1) - values.gather(1, parts.tail).sum(1)

    for literal, sign in ((False, 1), (True, -1)):
        nip = NIP(front=K1, tail=K2, literal_sign=literal)
        rho = nip.candidate(classifier, place, x, parts, 12).double()
        gain = sign * (lead(x + 1e-4 * rho) - lead(x))
        assert (gain > 0).all()


def test_the_template_shrinks_as_images_are_added_and_an_empty_one_is_refused() -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 200, wrong=0)
    templates = []
    for inputs in (1, 2, 4, 8):
        state = NIP(front=1, tail=1, inputs=inputs).fit(classifier, data, np.arange(200), seed=0)
        templates.append(set(state.tensors["template"].tolist()))
    assert all(later <= earlier for earlier, later in pairwise(templates))
    assert templates[-1] < templates[0]
    with pytest.raises(EvaluationError, match="template is empty"):
        NIP(inputs=200).fit(classifier, data, np.arange(200), seed=0)
    with pytest.raises(EvaluationError, match="too few for 6 front"):
        NIP(front=6, tail=6).fit(classifier, data, np.arange(200), seed=0)


def test_eta_says_how_many_candidates_there_are() -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 60, wrong=0)
    for eta, expected in ((1.0, 40), (0.3, 12), (0.01, 1)):
        nip = NIP(front=1, tail=1, quorum=0.5, eta=eta, inputs=40)
        state = nip.fit(classifier, data, np.arange(60), seed=0, batch_size=7)
        assert len(state.tensors["candidates"]) == len(state.tensors["delta"]) == state.facts["images"] == expected


def test_only_correctly_classified_images_make_candidates() -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 20, wrong=20)
    with pytest.raises(EvaluationError, match="correctly classified"):
        NIP().fit(classifier, data, np.arange(20), seed=0)


def test_the_nearest_candidate_is_found_and_the_first_of_equals() -> None:
    pool = torch.tensor([0.125, 0.25, 0.25, 0.5], dtype=torch.float64)
    delta = torch.tensor([0.0, 0.26, 0.375, 0.9], dtype=torch.float64)
    assert nearest_candidates(delta, pool, 1)[:, 0].tolist() == [0, 1, 1, 3], "0.375 lies as far from 0.25 as from 0.5"
    assert nearest_candidates(delta, pool, 3)[1].tolist() == [1, 2, 0]


def test_similarity_by_hand() -> None:
    """Rest (3, 1), template {1}: as indices (3, 1) . (1, 0) / (sqrt 10 * 1); as members 1 / sqrt(2 * 1)."""
    rest, members = torch.tensor([[3, 1]]), torch.tensor([1])
    assert similarity(rest, members, 4, "index").item() == pytest.approx(3 / 10**0.5)
    assert similarity(rest, members, 4, "member").item() == pytest.approx(1 / 2**0.5)


def test_a_constant_perturbation_is_none() -> None:
    assert normalized(torch.full((1, 3, 2, 2), 0.7)).abs().max() == 0


def test_a_layer_by_name_before_the_head_is_the_head() -> None:
    """The ReLU before the last linear layer puts out what goes into it."""
    classifier = exact()
    data = labelled(classifier, 30, wrong=0)
    states = [
        NIP(front=K1, tail=K2, quorum=QUORUM, inputs=15, layer=layer).fit(classifier, data, np.arange(30), seed=0)
        for layer in ("", "9")
    ]
    for name in ("template", "delta", "candidates"):
        one, other = (state.tensors[name].double() for state in states)
        assert torch.allclose(one, other, atol=1e-9), name
    with pytest.raises(EvaluationError, match="no layer 'nowhere'"):
        NIP(layer="nowhere").fit(classifier, data, np.arange(30), seed=0)


def test_nip_n_adds_to_the_front_and_takes_from_the_tail_of_the_layer() -> None:
    classifier = exact()
    data = labelled(classifier, 30, wrong=0)
    defense = NIPNeurons(front=K1, tail=K2, quorum=QUORUM, inputs=15)
    state = defense.fit(classifier, data, np.arange(30), seed=0)
    model = defense.wrap(classifier, state)
    x = data.images(np.arange(20, 30)).double()
    z = torch.nn.Sequential(*list(sequence(classifier))[BEFORE])(classifier.normalize(x))
    signs = state.tensors["candidates"][defense.chosen(classifier, x, model.passing(x))[:, 0]].double()
    assert (signs == 1).sum(1).tolist() == [K1] * 10
    assert (signs == -1).sum(1).tolist() == [K2] * 10
    changed = z + z.mean(1, keepdim=True) * signs / 2
    assert torch.allclose(model.logits(x), sequence(classifier)[10](changed), atol=1e-12)
    assert not sequence(classifier)[10]._forward_pre_hooks, "the hook is off again"


def test_nip_n_on_a_layer_of_maps_moves_whole_maps() -> None:
    classifier = exact()
    data = labelled(classifier, 30, wrong=0)
    defense = NIPNeurons(front=1, tail=1, quorum=0.5, inputs=10, layer="6")
    model = defense.wrap(classifier, defense.fit(classifier, data, np.arange(30), seed=0))
    assert not torch.equal(
        model.logits(data.images(np.arange(5)).double()), classifier.logits(data.images(np.arange(5)).double())
    )


@pytest.mark.parametrize("member", [NIP, NIPNeurons])
def test_an_attacker_may_look_at_several_candidates(member: type[NIP] | type[NIPNeurons]) -> None:
    """Their mean probability, or the one that is surest of the class that must be left."""
    classifier = exact()
    data = labelled(classifier, 30, wrong=0)
    defense = member(front=K1, tail=K2, quorum=QUORUM, inputs=15)
    model = defense.wrap(classifier, defense.fit(classifier, data, np.arange(30), seed=0))
    x = data.images(np.arange(20, 30)).double()
    view = View(adaptive=True, nearest=4)
    places = defense.chosen(classifier, x, model.seen(view).passing(x))
    pool = model.state.tensors["candidates"]
    answers = torch.stack(
        [defense.answer(classifier, x, model.passing(x), pool[places[:, i]].double()) for i in range(4)]
    )
    assert torch.allclose(model.seen(view).logits(x).softmax(1), answers.softmax(2).mean(0), atol=1e-12)
    assert torch.equal(model.seen(View(adaptive=True, nearest=1)).logits(x), model.logits(x))
    for wanted in range(5):
        strict = model.seen(View(adaptive=True, nearest=4, against=wanted)).logits(x)
        holds = (answers.argmax(2) == wanted).any(0)
        assert torch.equal(strict.argmax(1) == wanted, holds), "it falls only when all four fall"


@pytest.mark.parametrize("kind", ["random-candidate", "random-candidate-n"])
def test_the_random_candidate_takes_every_candidate_now_and_then(kind: str) -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 40, wrong=0)
    defense: Any = DEFENSES.build(kind, {"front": 1, "tail": 1, "quorum": 0.5, "inputs": 4})
    model = defense.wrap(classifier, defense.fit(classifier, data, np.arange(40), seed=0))
    x = data.images(np.arange(40))
    assert set(defense.chosen(classifier, x, model.passing(x))[:, 0].tolist()) == {0, 1, 2, 3}


def test_no_defense_has_a_place_for_a_label() -> None:
    for member in DEFENSES:
        assert {"label", "labels", "y", "clean", "twin"}.isdisjoint(inspect.signature(member.logits).parameters)


def test_the_gradient_goes_through_the_mean_of_the_image() -> None:
    """Finite differences of the defended logits, where the candidate stays and nothing is cut off."""
    classifier = exact()
    data = labelled(classifier, 30, wrong=0)
    nip = NIP(front=K1, tail=K2, quorum=QUORUM, inputs=1)  # a single candidate: the choice cannot change
    model = nip.wrap(classifier, nip.fit(classifier, data, np.arange(30), seed=0))
    x = (0.4 + 0.2 * data.images(np.arange(3)).double()).requires_grad_()
    (slope,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = (model.logits(x.detach() + step) - model.logits(x.detach() - step))[:, 1]
    assert torch.allclose(2 * (slope * step).flatten(1).sum(1), moved, rtol=1e-4)


@pytest.mark.parametrize("layer", ["", "0"])
def test_it_costs_at_most_a_fifth_more_than_two_forward_and_one_backward_pass(layer: str) -> None:
    shape = (3, 64, 64)
    network = sequence(small_cnn(shape=shape))
    network[0] = torch.nn.Sequential(
        *(torch.nn.Conv2d(c, 32, 3, padding=1) for c in (3, 32, 32, 32)), torch.nn.Conv2d(32, 8, 3, padding=1)
    )
    classifier = Classifier(network, input_shape=shape, num_classes=5, normalization=NORMALIZATIONS["half"])
    data = images(classifier, 40)
    name = "" if not layer else "0.1"
    nip = NIP(front=1, tail=1, quorum=0.1, inputs=40, layer=name)
    model = nip.wrap(classifier, nip.fit(classifier, data, np.arange(40), seed=0))
    x = data.images(np.arange(32))

    def passes() -> None:
        points = x.clone().requires_grad_()
        torch.autograd.grad(classifier(points).sum(), points)
        classifier.logits(x)

    def best(run: Any) -> float:
        times = []
        for _ in range(7):
            began = time.process_time()
            run()
            times.append(time.process_time() - began)
        return min(times)

    assert best(lambda: model.logits(x)) <= 1.2 * best(passes)


def test_states_are_plain_tensors() -> None:
    classifier = deeper_classifier()
    state = NIP(front=1, tail=1, quorum=0.5, inputs=5).fit(classifier, labelled(classifier, 20), np.arange(20), seed=0)
    assert isinstance(state, FittedState)
    assert state.tensors["candidates"].shape == (5, *SHAPE)
    flat = state.tensors["candidates"].flatten(1)
    assert torch.allclose(flat.amax(1) - flat.amin(1), torch.ones(5), atol=1e-6)
