"""Sweep: one parameter of a defense, or epsilon, and the values at which the defense is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from auditor.attacking.threat import ThreatModel
from auditor.defending.defense import DEFENSES, Defense
from auditor.kit.errors import SpecError, known_names

BOTH_ENDS = "k"
"""Changes front and tail together, as the NIP paper does."""
EPSILON = "epsilon"

SweptValue = Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=200)]


class SweepCase(NamedTuple):
    """What is evaluated at one value: the value as it was understood, the defenses, and the threat model."""

    value: float | str
    defenses: tuple[Defense, ...]
    threat: ThreatModel


class Sweep(BaseModel):
    """``parameter``: one of a defense, of the first in the row that has it; "k" for front and tail together; "epsilon" for the
    size of the perturbation. Each value of a parameter is fitted again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameter: str = Field(min_length=1, max_length=50, description="What is changed.")
    values: tuple[SweptValue, ...] = Field(
        min_length=1, max_length=32, description="Its values, one evaluation for each."
    )

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """From ``front=0+1+5``. Raises SpecError."""
        name, equals, values = text.partition("=")
        if not equals:
            raise SpecError(f"sweep: expected parameter=value+value, such as k=0+1+5, got {text!r}.")
        try:
            return cls(parameter=name.strip(), values=tuple(item.strip() for item in values.split("+")))
        except ValidationError as error:
            raise SpecError.from_validation("sweep", error) from None

    def points(self, defenses: Sequence[Defense], threat: ThreatModel) -> tuple[SweepCase, ...]:
        """What is evaluated for each value. Raises SpecError if no defense has the parameter, or it cannot take a value."""
        if self.parameter == EPSILON:
            return tuple(self._of_epsilon(tuple(defenses), threat, value) for value in self.values)
        names = ("front", "tail") if self.parameter == BOTH_ENDS else (self.parameter,)
        place = next((at for at, one in enumerate(defenses) if {*names} <= one.parameters().keys()), None)
        if place is None:
            ends = any({"front", "tail"} <= one.parameters().keys() for one in defenses)
            known = {name for one in defenses for name in one.parameters()} | ({BOTH_ENDS} if ends else set())
            raise SpecError(
                f"sweep: there is no parameter {self.parameter!r} here.",
                known_names(self.parameter, [EPSILON, *sorted(known)]),
            )
        found = []
        for value in self.values:
            changed = DEFENSES.build(defenses[place].kind, defenses[place].settings() | dict.fromkeys(names, value))
            taken = changed.settings()[names[0]]
            shown = float(taken) if isinstance(taken, int | float) and not isinstance(taken, bool) else str(taken)
            found.append(SweepCase(shown, (*defenses[:place], changed, *defenses[place + 1 :]), threat))
        return tuple(found)

    def _of_epsilon(self, defenses: tuple[Defense, ...], threat: ThreatModel, value: float | str) -> SweepCase:
        try:
            changed = ThreatModel.model_validate({"norm": threat.norm, "epsilon": value})
        except ValidationError as error:
            raise SpecError.from_validation("sweep", error) from None
        return SweepCase(changed.epsilon, defenses, changed)
