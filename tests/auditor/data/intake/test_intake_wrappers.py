"""Networks that hold their normalization, as RobustBench's, torchattacks' and robustness' files have it: read, and said."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditor.data.intake.asked import Asked
from auditor.data.intake.weights import load_weights
from auditor.models.classifier import Classifier
from tests.auditor.data.intake.conftest import Door, Tiny
from tests.narrow import known, sequence

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
ONE_EACH, FLAT, NO_BATCH = (1, 3, 1, 1), (3,), (3, 1, 1)
TINY = Tiny(height=8, width=8)


class Scaled(nn.Module):
    """(x - mean) / deviation with tensors of these names and shape; parameters, or buffers."""

    def __init__(
        self, names: tuple[str, str], shape: tuple[int, ...], parameters: bool = False, network: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.names, self.inner = names, network
        for name, values in zip(names, (MEAN, STD), strict=True):
            tensor = torch.tensor(values).view(shape)
            if parameters:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (getattr(self, name).view(1, -1, 1, 1) for name in self.names)
        x = (x - mean) / std
        return x if self.inner is None else self.inner(x)


class Within(Scaled):
    """The same on a network's own level: its tensors have no name before theirs, beside mean and deviation."""

    def __init__(
        self, names: tuple[str, str], shape: tuple[int, ...], network: nn.Module, parameters: bool = False
    ) -> None:
        super().__init__(names, shape, parameters)
        self.layers = [network]  # a list hides it
        for name, child in network.named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](super().forward(x))


class Attacked(nn.Module):
    """As the robustness library wraps networks: a normalizer, the network, and both once more inside of an attacker."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        names = ("new_mean", "new_std")
        self.normalizer, self.model = Scaled(names, NO_BATCH), network
        self.attacker = nn.Module()
        self.attacker.normalize, self.attacker.model = Scaled(names, NO_BATCH), network

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.normalizer(x))


def named(network: nn.Module, shape: tuple[int, ...], first: str = "normalize", second: str = "model") -> nn.Module:
    return nn.Sequential(OrderedDict([(first, Scaled(("mean", "std"), shape)), (second, network)]))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "mu, sigma at the top (most classes of RobustBench's zoo)": lambda n: Within(("mu", "sigma"), ONE_EACH, n),
    "mean, std at the top, as parameters (its ConvNeXt and BiT)": lambda n: Within(("mean", "std"), NO_BATCH, n, True),
    "mean, std at the top, flat": lambda n: Within(("mean", "std"), FLAT, n),
    "normalize and model (its ImageNormalizer)": lambda n: named(n, ONE_EACH),
    "normalize and model, flat (its RobustArch)": lambda n: named(n, FLAT),
    "normalize and model, without a batch": lambda n: named(n, NO_BATCH),
    "normalizer and net": lambda n: named(n, ONE_EACH, "normalizer", "net"),
    "a Sequential by number": lambda n: nn.Sequential(Scaled(("mean", "std"), ONE_EACH), n),
    "DataParallel around mu, sigma": lambda n: nn.DataParallel(Within(("mu", "sigma"), ONE_EACH, n)),
    "DataParallel around normalize and model": lambda n: nn.DataParallel(named(n, ONE_EACH)),
    "the robustness library": Attacked,
    "DataParallel around the robustness library": lambda n: nn.DataParallel(Attacked(n)),
}


def trained(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = TINY.build()
    norm = network.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = torch.randn(4) * 0.2
    norm.running_var = torch.rand(4) + 0.5
    return network.eval()


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_normalization_inside_a_file_is_used_and_said(name: str, door: Door, saved: Any) -> None:
    wrapped = WRAPPERS[name](trained()).eval()
    manifest = door.model(saved(wrapped.state_dict()))
    normalization = known(manifest.normalization)
    assert normalization.mean == pytest.approx(MEAN)
    assert normalization.std == pytest.approx(STD)
    assert "The file carries a normalization: mean 0.4914 0.4822 0.4465, std 0.2471 0.2435 0.2616" in " ".join(
        manifest.notes
    )
    network = TINY.build()
    load_weights(network, door.destination)
    ours = Classifier(network, input_shape=TINY.input_shape, num_classes=TINY.num_classes, normalization=normalization)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    bare = Classifier(network, input_shape=TINY.input_shape, num_classes=TINY.num_classes)
    with torch.no_grad():
        expected = wrapped(x) if not isinstance(wrapped, nn.DataParallel) else wrapped.module(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
        assert (bare(x) - expected).abs().max() > 0.01  # without it, other answers


class Several(Tiny):
    """Two heads, in a dict."""

    def build(self) -> nn.Module:
        return Heads(super().build(), super().build())


class Heads(nn.Module):
    def __init__(self, main: nn.Module, aux: nn.Module) -> None:
        super().__init__()
        self.main, self.aux = main, aux

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"main": self.main(x), "aux": self.aux(x), "map": x}


def test_the_output_of_an_architecture_with_several_is_checked_and_kept(door: Door, saved: Any) -> None:
    several = Several(height=8, width=8)
    content = saved(several.build().state_dict())
    for output in ("aux", "1", ""):
        assert door.model(content, architecture=several, asked=Asked(None, output)).output == output
    error = door.refuse_model(content, "returns no output 'ax'", architecture=several, asked=Asked(None, "ax"))
    assert "Did you mean aux?" in error.hint  # which was taken above
    door.refuse_model(content, "it returned 2x3x8x8 as 'map'", architecture=several, asked=Asked(None, "map"))


def test_two_normalizations_that_differ_are_only_told(door: Door, saved: Any) -> None:
    state = Attacked(trained()).state_dict()
    state["attacker.normalize.new_mean"] = torch.zeros(3, 1, 1)
    manifest = door.model(saved(state))
    assert manifest.normalization is None
    assert "look like parts of a normalization" in " ".join(manifest.notes)


@pytest.mark.parametrize("shape", [(1, 4 * 4 * 4), (2, 4 * 4 * 4)])
def test_one_logit_in_a_file_counts_as_two_classes(shape: tuple[int, int], door: Door, saved: Any) -> None:
    network = sequence(trained())
    network[-1] = nn.Linear(shape[1], shape[0])
    two = Tiny(height=8, width=8, num_classes=2)
    manifest = door.model(saved(network.state_dict()), architecture=two)
    assert any("two classes with the logits (0, z)" in note for note in manifest.notes) == (shape[0] == 1)
    ours = two.build()
    load_weights(ours, door.destination)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = ours.eval()(x), network(x)
    if shape[0] == 1:
        expected = torch.cat([torch.zeros(4, 1), expected], 1)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    if shape[0] == 1:  # declared for ten classes, the remedy says two
        error = door.refuse_model(saved(network.state_dict()), "one logit, so two classes, you declared 10")
        assert "`--num-classes 2`" in error.hint
