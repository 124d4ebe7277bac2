"""What goes into the network of an ONNX file and comes out: its images and its logits, as the file declares them."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.data.intake.onnx.document import DeclaredTensor, OnnxFile
from auditor.kit.errors import IntakeError, meant
from auditor.kit.wording import counted, listed, printable, shown

_CHANNELS = (1, 3, 4)
"""Channels by which an input is known to have them last."""


def chosen_output(document: OnnxFile, filename: str, wanted: str | None, notes: list[str]) -> DeclaredTensor:
    """The output that holds the logits; ``notes`` gets what was chosen. Raises IntakeError."""
    outputs = document.outputs
    names = [item.name for item in outputs]
    if wanted is not None:
        numbers = [str(number) for number in range(len(names))]
        places = [known.index(wanted) for known in (names, numbers) if wanted in known]
        if not places:
            raise IntakeError(
                f"{shown(filename)} has no output {shown(wanted)}; it has {listed([shown(item) for item in names], 8)}.",
                f"{meant(wanted, names)} {_choose(names)}".strip(),
                tuple(names),
            )
        return outputs[places[0]]
    usable = [item for item in outputs if item.kind.startswith(("float", "bfloat")) and _may_be_logits(item)]
    named_so = [item for item in usable if "logit" in item.name.lower()]
    found = named_so if len(named_so) == 1 else usable
    if len(found) != 1:
        several = tuple(item.name for item in usable)
        raise IntakeError(
            f"{shown(filename)} has {counted(len(outputs), 'output')} ({listed([shown(item) for item in names], 8)}); "
            f"expected one of images x classes.",
            _choose(several) if several else "Export the network so that it returns the logits alone.",
            several,
        )
    if len(outputs) > 1:
        notes.append(f"The file has {len(outputs)} outputs; {shown(found[0].name)} was taken for the logits.")
    return found[0]


def image_input(
    document: OnnxFile, filename: str, size: tuple[int, int] | None, notes: list[str]
) -> tuple[tuple[int, ...], bool]:
    """The sizes of the input in the file's order, 0 for an open batch, and whether channels are last. Raises IntakeError.

    ``size``: height and width, for files that leave them open.
    """
    inputs = document.inputs
    if len(inputs) != 1:
        names = listed([shown(item.name) for item in inputs], 8) or "none"
        raise IntakeError(
            f"{shown(filename)} has {counted(len(inputs), 'input')} ({names}); expected one, the images.",
            "Export the network so that it takes images alone.",
        )
    (image,) = inputs
    shape = image.shape
    if not image.kind.startswith(("float", "bfloat")):
        raise IntakeError(
            f"The input {shown(image.name)} of {shown(filename)} takes {image.kind}; expected float pixels.",
            "Export the network without the conversion from whole numbers in front.",
        )
    if shape is None or len(shape) != 4:
        came = "no shape" if shape is None else f"the shape {_shown(shape)}"
        raise IntakeError(
            f"The input {shown(image.name)} of {shown(filename)} has {came}; expected images x channels x height x "
            "width, or channels last.",
            "Export the network with images as its input.",
        )
    last = shape[3] in _CHANNELS and shape[1] not in _CHANNELS
    channels, height, width = (shape[3], shape[1], shape[2]) if last else shape[1:]
    if not isinstance(channels, int) or channels < 1:
        raise IntakeError(
            f"The input {shown(image.name)} of {shown(filename)} leaves its channels open ({_shown(shape)}).",
            "Export it with a fixed number of channels.",
        )
    sides = []
    for what, side, given in zip(("height", "width"), (height, width), size or (None, None), strict=True):
        fixed = isinstance(side, int) and side > 0
        if fixed and given not in (None, side):
            raise IntakeError(
                f"{shown(filename)} is made for a {what} of {side} pixels, not {given}.",
                "Leave out `--size` ('Height' and 'Width' on the page): the file says its size itself.",
            )
        if not fixed and given is None:
            raise IntakeError(
                f"{shown(filename)} leaves the size of its images open ({_shown(shape)}); expected a fixed "
                "height and width.",
                "Give the size that the network was trained on, height x width: `--size 224x224` on the command line, "
                "'Height' and 'Width' on the page.",
            )
        sides.append(side if fixed else given)
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 0
    sizes = (batch, *sides, channels) if last else (batch, channels, *sides)
    if batch > 1:
        notes.append(f"The file was made for batches of {batch} images; the network takes any number.")
    return tuple(int(str(item)) for item in sizes), last


def _choose(names: Sequence[str]) -> str:
    """How to say which output holds the logits."""
    return f"Say which output holds the logits, such as `--output {printable(names[0], 60)}`; 'Output' on the page."


def _may_be_logits(item: DeclaredTensor) -> bool:
    return item.shape is None or len([size for size in item.shape if size != 1]) <= 2


def _shown(shape: tuple[int | str | None, ...]) -> str:
    return "x".join("?" if size is None else str(size)[:30] for size in shape)
