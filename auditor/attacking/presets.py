"""Presets: threat models and attacks that belong together, by name."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.errors import SpecError, known_names, spelled

LINF = ThreatModel(norm=Norm.LINF, epsilon=8 / 255)
L2 = ThreatModel(norm=Norm.L2, epsilon=0.5)
L0 = ThreatModel(norm=Norm.L0, epsilon=10)


class Preset(BaseModel):
    """``attacks``: in their text form. ``summary``: for whom and at what price."""

    model_config = ConfigDict(frozen=True)

    title: str
    summary: str
    threats: tuple[ThreatModel, ...]
    attacks: tuple[str, ...]

    def build(self) -> tuple[tuple[ThreatModel, ...], tuple[Attack, ...]]:
        """The threat models and attacks themselves."""
        return self.threats, tuple(map(ATTACKS.parse, self.attacks))


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        title="Quick look",
        summary="FGSM and ten steps of PGD: minutes on a CPU, and too weak to rely on.",
        threats=(LINF,),
        attacks=("fgsm", "pgd:steps=10,step_size=0.25"),
    ),
    "standard": Preset(
        title="Standard",
        summary="AutoAttack, PGD with 50 steps and 5 restarts, in L∞ and L2, and random noise as a control.",
        threats=(LINF, L2),
        attacks=("auto-attack", "pgd:steps=50,step_size=0.1,restarts=5", "random-noise"),
    ),
    "robustbench": Preset(
        title="RobustBench",
        summary="AutoAttack (standard) at L∞ 8/255: the number of the RobustBench leaderboard for CIFAR-10.",
        threats=(LINF,),
        attacks=("auto-attack",),
    ),
    "sns": Preset(
        title="Zhang et al. 2020 (neuron sensitivity)",
        summary="FGSM and PGD with k = 10, step ε/√k: L∞ 8/255 and L2 80/255.",
        threats=(LINF, ThreatModel(norm=Norm.L2, epsilon=80 / 255)),
        attacks=("fgsm", "pgd:steps=10,step_size=0.316228"),
    ),
    "one-neuron": Preset(
        title="Suri and Evans 2020 (one neuron to fool them all)",
        summary="PGD with 100 steps in L2 0.5 and L∞ 8/255.",
        threats=(L2, LINF),
        attacks=("pgd:steps=100,step_size=0.05",),
    ),
    "route": Preset(
        title="Li et al. 2021 (critical attacking route)",
        summary="FGSM, PGD and MI-FGSM with 10 steps of ε/10 at L∞ 8/255.",
        threats=(LINF,),
        attacks=("fgsm", "pgd:steps=10,step_size=0.1", "mi-fgsm:steps=10,step_size=0.1,decay=1"),
    ),
    "nip": Preset(
        title="Chen et al. 2022 (NIP)",
        summary="The paper's attacks with foolbox 2.3's minimal budget, in the norms they work in; the slowest preset.",
        threats=(ThreatModel(norm=Norm.LINF, epsilon=0.3), ThreatModel(norm=Norm.L2, epsilon=3.0), L0),
        attacks=(
            "fgsm:budget=minimal",
            "bim:budget=minimal,steps=10,step_size=0.166667",
            "pgd:budget=minimal,steps=40,step_size=0.033333,random_start=false",
            "mi-fgsm:budget=minimal,steps=10,step_size=0.2,decay=0.9",
            "deepfool:budget=minimal",
            "carlini-wagner:budget=minimal",
            "jsma:budget=minimal",
            "uap",
            "auna:budget=minimal",
            "one-pixel",
            "pointwise:budget=minimal",
            "boundary:budget=minimal",
            "auto-attack",
        ),
    ),
}


def find_preset(name: str) -> Preset:
    """Raises SpecError for a name that is not there."""
    named = {spelled(known): preset for known, preset in PRESETS.items()}
    if spelled(name) not in named:
        raise SpecError(f"There is no preset {name!r}.", known_names(name, PRESETS))
    return named[spelled(name)]
