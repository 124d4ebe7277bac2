"""Several numbers or names in one parameter."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from auditor.kit.series import Multiples, Names, Shares


def test_written_with_plus_signs_or_as_a_list() -> None:
    assert TypeAdapter(Shares).validate_python("0.25+1") == (0.25, 1.0)
    assert TypeAdapter(Shares).validate_python([0.25, 1]) == (0.25, 1.0)
    assert TypeAdapter(Multiples).validate_python(" 0.5 + 2 ") == (0.5, 2.0)
    assert TypeAdapter(Names).validate_python("layer1.relu+layer1.relu#2") == ("layer1.relu", "layer1.relu#2")
    assert TypeAdapter(Names).validate_python("") == ()


@pytest.mark.parametrize(("kind", "value"), [(Shares, "1.5"), (Shares, "a"), (Multiples, "0"), (Multiples, "0.5+-1")])
def test_wrong_values_are_refused(kind: type[tuple[float, ...]], value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)
