"""Which architectures a file of weights may be of, from the names and shapes of its tensors alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import nn

from auditor.data.intake.checkpoints import Checkpoint
from auditor.data.intake.matching import network_tensors, without_prefix
from auditor.data.intake.other_libraries import named_elsewhere
from auditor.data.intake.signatures import compact, index, signature, weighty
from auditor.data.intake.solving import (
    FEW,
    File,
    Fitting,
    any_size,
    built,
    fitted,
    from_data,
    other_values,
    usual_side,
    with_sizes,
)
from auditor.kit.errors import AuditorError, IntakeError
from auditor.kit.wording import listed, shown
from auditor.models.architecture import ARCHITECTURES, Architecture
from auditor.models.layers.extended import Extended, frame_of

MOST = 3
"""Proposals for one file."""

_BLOCK = ".block."
"""Within the names of what Extended networks put after a layer."""


class Proposal(BaseModel):
    """An architecture that has a place for every tensor of a file."""

    model_config = ConfigDict(frozen=True)

    architecture: dict[str, JsonValue] = Field(description="The architecture as data.")
    text: str = Field(
        description="The architecture as `--architecture` takes it: compact, or JSON where it has no compact form."
    )
    options: str = Field("", description="Further options of the command line that it needs.")
    note: str = Field("", description="What names and shapes do not decide, and how tensors were matched.")
    open_size: bool = Field(
        False, description="Whether images of other sizes fit, too; the height and width are guesses."
    )


def only_proposal(checkpoint: Checkpoint, name: str) -> tuple[Architecture, str]:
    """The architecture of a file of weights alone, where exactly one fits, and a note. Raises IntakeError."""
    said = f"{shown(name)} holds weights alone and does not say of which architecture they are"
    found = proposals(checkpoint, name)
    if len(found) == 1:
        (one,) = found
        note = f"The file does not say its architecture; {one.text} was taken, the only one tried whose tensors fit."
        return from_data(one.architecture), f"{note} {one.note}".strip()
    if found:
        raise IntakeError(
            f"{said}; {len(found)} of those tried fit. {found[0].note}".strip(),
            "Choose one: "
            + ", or ".join(f"`--architecture {quoted(each.text)}`" for each in found)
            + " on the command line, "
            "'Architecture' on the page and the fields below it.",
        )
    raise IntakeError(
        f"{said}; none of those tried fits.",
        "Name it: `--architecture` on the command line, 'Architecture' on the page. `auditor models inspect` shows the tensors.",
    )


def quoted(text: str) -> str:
    """As a shell takes it: in quotes only where needed."""
    return text if all(c.isalnum() or c in "-_.:=,+" for c in text) else "'" + text.replace("'", "'\\''") + "'"


def proposals(checkpoint: Checkpoint, name: str) -> tuple[Proposal, ...]:
    """At most MOST architectures of the catalogue that have a place for every tensor, the most likely first."""
    file = File(name, checkpoint.tensors, network_tensors(checkpoint.tensors), checkpoint.format != "safetensors")
    found = list(_first_that_fit(file))
    exact = [each for each in found if each.by_names]
    found = exact or found
    kinds = {each.architecture.kind: each for each in reversed(found)}
    result: list[Proposal] = []
    for each in reversed(kinds.values()):
        others = _undecided(each, file)
        usual = usual_side(file)
        ordered = sorted((each.architecture, *others), key=lambda other: other.height != usual)
        values = _differences(ordered)
        for architecture in ordered:
            note = _note(each, architecture, values)
            result.append(proposal(architecture, note))
    return tuple({each.text: each for each in result}.values())[:MOST]


def proposal(architecture: Architecture, note: str) -> Proposal:
    """An architecture as a proposal."""
    return Proposal(
        architecture=architecture.model_dump(mode="json"),
        text=text_of(architecture),
        note=note,
        open_size=any_size(architecture),
    )


def text_of(architecture: Architecture) -> str:
    """What `--architecture` takes: the compact form, or JSON for what has no compact form."""
    return compact(architecture, named=True) or json.dumps(architecture.model_dump(mode="json"))


def _first_that_fit(file: File) -> Iterator[Fitting]:
    """Those of the catalogue; those of optional libraries only where none of these has the file's names."""
    ways: tuple[Callable[[File], Iterable[Architecture]], ...] = (_indexed, _of_other_libraries, _extended)
    for way in ways:
        for candidate in way(file):
            if (fitting := fitted(candidate, file)) is not None:
                yield fitting
                if fitting.by_names:
                    return


def _has_names(candidate: Architecture, file: File) -> bool:
    """Whether the names of a candidate are the file's, but for a prefix."""
    try:
        wanted = weighty(built(candidate)[1])
    except AuditorError:
        return False
    return wanted.keys() <= without_prefix(file.network, wanted).keys()


def _indexed(file: File) -> Iterator[Architecture]:
    """Candidates with layers of the same kinds, for all tensors or for those below the commonest first parts of names."""
    known = index()
    parts = [key.partition(".")[0] + "." for key in file.network]
    groups = sorted(set(parts), key=parts.count, reverse=True)[:FEW]
    for group in ("", *groups):
        shapes = {key: tensor.shape for key, tensor in file.network.items() if key.startswith(group)}
        digest = signature(shapes)
        texts = [*known.plain.get(digest, ()), *known.fused.get(digest, ())]
        found = [ARCHITECTURES.parse(text) for text in texts]
        found += _with_depth(len(shapes), digest)
        if found:
            yield from sorted(found, key=lambda each: not _has_names(each, file))
            return


def _with_depth(count: int, digest: str) -> Iterator[Architecture]:
    """Kinds with a depth of any number, which the number of tensors tells."""
    entries = [(kind, entry) for kind, lengths in index().lengths.items() for entry in lengths]
    for kind, (name, value, tensors, other, more, given) in entries:
        depth = value + (count - tensors) * (other - value) / (more - tensors)
        with suppress(AuditorError):
            candidate = ARCHITECTURES.build(kind, {**given, name: depth})
            state = built(candidate)[1]
            if signature({key: tensor.shape for key, tensor in state.items()}) == digest:
                yield candidate


def _of_other_libraries(file: File) -> Iterator[Architecture]:
    return named_elsewhere({key: tuple(tensor.shape) for key, tensor in file.network.items()})


def _extended(file: File) -> Iterator[Architecture]:
    """Networks with blocks after layers: without the tensors of ``x.block``, and with those of ``x.layer`` called x, the rest may
    be another architecture.
    """
    places = tuple(dict.fromkeys(key.partition(_BLOCK)[0] for key in file.network if _BLOCK in key))
    rest = dict(file.network)
    for place in places:
        rest = {
            key.replace(f"{place}.layer.", f"{place}.", 1) if key.startswith(f"{place}.layer.") else key: tensor
            for key, tensor in rest.items()
            if not key.startswith(f"{place}{_BLOCK}")
        }
    if not places or not rest:
        return
    base = next(_first_that_fit(file._replace(tensors=rest, network=rest)), None)
    if base is None or not base.by_names:
        return
    frame = frame_of(base.architecture)
    for member in ARCHITECTURES:
        if issubclass(member, Extended):
            values = {"base": base.architecture.model_dump(mode="json"), "layers": places}
            with suppress(AuditorError):
                yield ARCHITECTURES.build(member.kind_name(), {**values, **frame})


def _undecided(found: Fitting, file: File) -> list[Architecture]:
    """The same with other values that the tensors do not decide, where these make another network."""
    architecture = found.architecture
    network = built(architecture)[0]
    shapes = _shapes(network)
    result = []
    for changed in other_values(architecture):
        for candidate in with_sizes(changed, file):
            try:
                other = built(candidate)[0]
            except AuditorError:
                continue
            theirs = _shapes(other)
            if shapes == theirs:
                if _outline(network) != _outline(other) or candidate.input_shape != architecture.input_shape:
                    result.append(candidate)
                break
            if shapes.keys() != theirs.keys() or any(len(v) == 4 and theirs[k] != v for k, v in shapes.items()):
                break
    return result


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _outline(network: nn.Module) -> list[Any]:
    """What makes two networks with the same tensors differ: the modules and their plain values."""

    def plain(value: object) -> object:
        return (
            value
            if isinstance(value, bool | int | float | str | tuple | type(None))
            else getattr(value, "__name__", "")
        )

    return [
        (
            name,
            type(module).__name__,
            {key: plain(value) for key, value in vars(module).items() if not key.startswith("_")},
        )
        for name, module in network.named_modules()
    ]


def _differences(architectures: list[Architecture]) -> list[str]:
    """The parameters in which these differ, with their values: ``activation (relu or tanh)``."""
    settings = [each.settings() for each in architectures]
    texts = []
    for name in settings[0]:
        values = list(dict.fromkeys(_word(each[name]) for each in settings))
        if len(values) > 1 and name != "width":
            texts.append(f"{name} ({' or '.join(values)})")
    return texts


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _note(found: Fitting, architecture: Architecture, undecided: list[str]) -> str:
    texts = []
    if undecided:
        texts.append(f"Names and shapes do not decide: {', '.join(undecided)}.")
    if any_size(architecture):
        size = f"{architecture.height}x{architecture.width}"
        texts.append(
            f"The image size is not in the file: {size} is a guess; `--input` beside `--architecture` gives another, as does "
            "'Size of the images' on the page."
        )
    if not found.by_names:
        pairs = [f"{key} -> {name}" for key, name in found.match.mapping.items() if key != name]
        texts.append(f"The names differ; tensors were matched by order and shape: {listed(pairs)}.")
    return " ".join(texts)
