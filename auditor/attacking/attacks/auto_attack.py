"""AutoAttack: the parameter-free ensemble that the field compares by."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.attacking.attack import ATTACKS, Attack, Ensemble

STAGES: dict[str, tuple[tuple[str, dict[str, int]], ...]] = {
    "standard": (
        ("apgd-ce", {"steps": 100}),
        ("apgd-t", {"steps": 100, "restarts": 9}),
        ("fab-t", {"steps": 100, "classes": 9}),
        ("square", {"queries": 5000}),
    ),
    "rand": (("apgd-ce", {"steps": 100, "eot": 20}), ("apgd-dlr", {"steps": 100, "eot": 20})),
}


class AutoAttack(Ensemble):
    """AutoAttack (Croce and Hein 2020, arXiv 2003.01690): APGD-CE, APGD-T, FAB-T and Square, each on the samples that
    the earlier ones could not fool.

    "rand" is for models with random outputs: APGD-CE and APGD-DLR, each gradient averaged over 20 answers.
    """

    title: ClassVar[str] = "AutoAttack"
    kind: Literal["auto-attack"] = "auto-attack"
    version: Literal["standard", "rand"] = Field(
        "standard", description="standard, or rand for models with random outputs."
    )

    @property
    def stages(self) -> tuple[Attack, ...]:
        return tuple(ATTACKS.build(kind, values) for kind, values in STAGES[self.version])
