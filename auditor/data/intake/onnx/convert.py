"""convert: an ONNX file becomes an architecture of ours, with its weights by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from auditor.data.intake.onnx.builder import IMAGE, Builder, Const, Draft, Live, Refusal, Value
from auditor.data.intake.onnx.constants import FOLDS, TooLargeError
from auditor.data.intake.onnx.document import EXPORT, Node, OnnxFile, read_document
from auditor.data.intake.onnx.ends import chosen_output, image_input
from auditor.data.intake.onnx.naming import Use, named
from auditor.data.intake.onnx.operators import OPERATORS
from auditor.kit.errors import AuditorError, IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import counted, shape_text, shown
from auditor.models.architectures.onnx import Onnx
from auditor.models.graph import steps
from auditor.models.graph.network import INPUT, Graph, Held, Role
from auditor.models.outputs import ONE_LOGIT

_CARRY = ("Identity", "Cast", "CastLike", "Expand", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operations on a constant after which it still is that tensor of the file."""

_FLATTENING = (steps.Flatten, steps.Reshape)
_WEIGHTED = (steps.Conv, steps.Linear)


class Converted(NamedTuple):
    """The network of a file: its architecture, its tensors by the names of that, and what the user should know."""

    architecture: Onnx
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def convert(
    source: Path,
    filename: str,
    *,
    limits: Limits | None = None,
    size: tuple[int, int] | None = None,
    output: str | None = None,
    keep_softmax: bool = False,
) -> Converted:
    """Convert the classifier in an ONNX file. Nothing of the file runs.

    ``size``: height and width of an image in pixels, for files that leave them open. ``output``: the name of the output that
    holds the logits, for files with several. ``keep_softmax``: whether a softmax at the end stays, so that the network gives
    probabilities. Raises IntakeError with the node that cannot be converted; ServiceError without the onnx package.
    """
    document = read_document(source, filename, limits or Limits())
    conversion = _Conversion(document, filename, size, output)
    return conversion.finished(keep_softmax)


class _Conversion:
    def __init__(self, document: OnnxFile, filename: str, size: tuple[int, int] | None, output: str | None) -> None:
        self.document, self.filename = document, filename
        self.notes: list[str] = []
        self.output = chosen_output(document, filename, output, self.notes)
        image, self.last = image_input(document, filename, size, self.notes)
        self.builder = Builder(image[0] or 1, document.opset)
        self.input_shape = (image[3], image[1], image[2]) if self.last else (image[1], image[2], image[3])
        self.values: dict[str, Value] = {name: Const(tensor, name) for name, tensor in document.tensors.items()}

    def finished(self, keep_softmax: bool) -> Converted:
        self._run()
        logits = self.values[self.output.name]
        if not isinstance(logits, Live):
            raise self._error(f"The output {shown(self.output.name)} does not depend on the image.", EXPORT)
        logits = self._plain(logits, keep_softmax)
        order = self._needed(logits)
        drafts = [self.builder.drafts[index] for index in order]
        uses = {_use(v, draft): Use(v, draft) for draft in drafts for v in draft.inputs if isinstance(v, Const)}
        names, held = named(drafts, list(uses.values()))
        place = dict(zip(order, names, strict=True)) | {IMAGE: INPUT}
        kept = dict(zip(uses, held, strict=True))
        roles = self._roles(drafts)
        try:
            graph = Graph(
                tensors=tuple(
                    Held(name=kept[key], shape=tuple(use.constant.tensor.shape), role=roles[key])
                    for key, use in uses.items()
                ),
                steps=tuple(
                    draft.step(
                        name=name,
                        inputs=tuple(
                            place[v.draft] if isinstance(v, Live) else kept[_use(v, draft)] for v in draft.inputs
                        ),
                        **draft.values,
                    )
                    for draft, name in zip(drafts, names, strict=True)
                ),
                output=place[logits.draft],
            )
            channels, height, width = self.input_shape
            architecture = Onnx(num_classes=logits.shape[1], channels=channels, height=height, width=width, graph=graph)
            with torch.device("meta"):
                expected = architecture.build().state_dict()
        except (ValueError, AuditorError) as error:
            raise self._error(
                f"The graph of {shown(self.filename)} makes no network ({str(error)[:300]}).", EXPORT
            ) from None
        tensors = {kept[key]: use.constant.tensor for key, use in uses.items()}
        for draft, name in zip(drafts, names, strict=True):
            tensors.update({f"{name}.{key}": tensor for key, tensor in draft.weights.items()})
        self._match(tensors, expected)
        self._tell(drafts)
        return Converted(architecture, {key: tensors[key] for key in expected}, tuple(self.notes))

    # What goes in and comes out

    def _plain(self, logits: Live, keep_softmax: bool) -> Live:
        """The logits as (B, K), without the softmax after them."""
        builder, node = self.builder, self.document.nodes[-1]
        for _ in range(4):
            draft = builder.of(logits)
            if draft is None:
                break
            squashed = _squashed(draft, logits)
            if squashed and not keep_softmax:
                self.notes.append(
                    f"The {squashed} at the end of the network was left out, so that it gives logits; probabilities are as "
                    "before."
                )
                assert isinstance(draft.inputs[0], Live)
                logits = draft.inputs[0]
                continue
            before = draft.inputs[0]
            inner = builder.of(before)
            if draft.step not in _FLATTENING or inner is None or not isinstance(before, Live):
                break
            if not (_squashed(inner, before) or inner.step in _FLATTENING) or max(before.shape) != max(logits.shape):
                break
            logits = before
        classes = max(logits.shape)
        if torch.Size(logits.shape).numel() != classes or logits.outer != 1:
            raise self._error(
                f"The output {shown(self.output.name)} of {shown(self.filename)} gives {shape_text(logits.shape)} for one image; "
                "expected the logits of some classes.",
                "Export a classifier with one logit for each class.",
            )
        try:
            if logits.axis != 0 or logits.shape != (1, classes):
                logits = builder.emit(node, steps.Reshape, [logits], shape=(-1, classes))
            return logits if classes > 1 else self._two_classes(logits)
        except Refusal as refusal:
            raise self._error(
                f"The output {shown(self.output.name)} of {shown(self.filename)} {refusal.reason}."
            ) from None

    def _two_classes(self, logit: Live) -> Live:
        """The logits (0, z) of the one logit z, (B, 1): their softmax is the sigmoid of z, for class 1. Raises Refusal."""
        self.notes.append(ONE_LOGIT)
        draft = self.builder.of(logit)
        if (
            draft is not None and draft.step is steps.Linear
        ):  # the last one: a row of zeros makes it the head of two classes
            weights = {key: torch.cat([torch.zeros_like(tensor), tensor]) for key, tensor in draft.weights.items()}
            self.builder.drafts[logit.draft] = replace(
                draft, weights=weights, values={**draft.values, "out_features": 2}
            )
            return logit._replace(shape=(1, 2))
        node = self.document.nodes[-1]._replace(scope="", name="two_classes")
        weights = {"weight": torch.tensor([[0.0], [1.0]]), "bias": torch.zeros(2)}
        return self.builder.emit(node, steps.Linear, [logit], weights, in_features=1, out_features=2)

    # The nodes

    def _run(self) -> None:
        image = Live(IMAGE, (1, *self.input_shape), 0)
        wanted = self._wanted()
        first = self.document.nodes[0]
        if self.last:
            image = self.builder.emit(first._replace(scope="", name=""), steps.Permute, [image], dims=(0, 2, 3, 1))
            self.notes.append("The file takes images with the channels last; the network takes them first.")
        self.values[self.document.inputs[0].name] = image
        for node in wanted:
            try:
                self._take(node)
            except Refusal as refusal:
                raise self._refused(node, refusal.reason, refusal.hint) from None
            except TooLargeError:
                raise self._refused(node, "gives a constant of more than 64 million values", EXPORT) from None
            except (
                ValueError,
                RuntimeError,
                IndexError,
                TypeError,
                KeyError,
                AssertionError,
                ZeroDivisionError,
            ) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
                raise self._refused(node, f"cannot be read ({reason})", EXPORT) from None

    def _wanted(self) -> list[Node]:
        """The nodes that the output needs, in their order."""
        needed = {self.output.name}
        found = []
        for node in reversed(self.document.nodes):
            if needed & set(node.outputs):
                found.append(node)
                needed.update(node.inputs)
        return found[::-1]

    def _take(self, node: Node) -> None:
        if node.op == "Constant":
            self.values[node.outputs[0]] = Const(_constant(node))
            return
        inputs: list[Value | None] = []
        for name in node.inputs:
            if name and name not in self.values:
                raise Refusal(f"takes {shown(name)}, which is a second output of a node or is missing")
            inputs.append(self.values[name] if name else None)
        if any(isinstance(value, Live) for value in inputs):
            if node.op not in OPERATORS:
                known = ", ".join(sorted(OPERATORS))
                raise Refusal(
                    "is an operator that has no layer here",
                    f"Export the network in PyTorch without it; these are taken: {known}.",
                )
            made = OPERATORS[node.op](self.builder, node, inputs)
        else:
            made = self._folded(node, [value for value in inputs if not isinstance(value, Live)])
        for name, value in zip(node.outputs, made if isinstance(made, list) else [made], strict=False):
            if name:
                self.values[name] = value

    def _folded(self, node: Node, inputs: list[Const | None]) -> Value:
        if node.op not in FOLDS:
            raise Refusal("is an operator on constants that is not worked out here", EXPORT)
        result = FOLDS[node.op](
            [None if item is None else item.tensor for item in inputs], node.attributes, self.document.opset
        )
        first = inputs[0].name if inputs and inputs[0] is not None and node.op in _CARRY else ""
        # Exporters share equal tensors by Identity; what comes out has the layer's own name.
        return Const(result, node.outputs[0] if node.op == "Identity" and first else first)

    # What is left

    def _needed(self, logits: Live) -> list[int]:
        """The drafts that the logits need, in their order."""
        found: set[int] = set()
        open_ = [logits.draft]
        while open_:
            index = open_.pop()
            if index != IMAGE and index not in found:
                found.add(index)
                open_ += [value.draft for value in self.builder.drafts[index].inputs if isinstance(value, Live)]
        return sorted(found)

    def _roles(self, drafts: list[Draft]) -> dict[tuple[int, str], Role]:
        """Tensors of the file that are used after the first layer are parameters, as a class token; no others are trained."""
        roles: dict[tuple[int, str], Role] = {}
        weighted = False
        for draft in drafts:
            weighted |= draft.step in _WEIGHTED
            for value in draft.inputs:
                if isinstance(value, Const):
                    trained = weighted and value.name in self.document.tensors and value.tensor.numel() > 1
                    roles.setdefault(_use(value, draft), "parameter" if trained else "buffer")
        return roles

    def _match(self, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        if tensors.keys() != expected.keys():
            odd = sorted(tensors.keys() ^ expected.keys())[0]
            raise self._error(f"The tensor {shown(odd)} of {shown(self.filename)} has no place in its network.", EXPORT)
        for key, tensor in tensors.items():
            if tensor.shape != expected[key].shape or tensor.is_floating_point() != expected[key].is_floating_point():
                raise self._error(
                    f"The tensor {shown(key)} of {shown(self.filename)} is {shape_text(tensor.shape)}, its layer takes "
                    f"{shape_text(expected[key].shape)}.",
                    EXPORT,
                )

    def _tell(self, drafts: list[Draft]) -> None:
        fused = sum(draft.node.fused for draft in drafts if draft.step is steps.Conv)
        if fused:
            self.notes.append(
                f"The exporter folded batch normalizations into {counted(fused, 'convolution')}: they are not layers of their "
                "own. Export with optimize=False to keep them."
            )
        first = next((index for index, draft in enumerate(drafts) if draft.step in _WEIGHTED), 0)
        scaling = [
            draft
            for draft in drafts[:first]
            if draft.step is steps.Arithmetic and draft.values["function"] in ("subtract", "add", "multiply", "divide")
        ]
        if scaling:
            done = ", ".join(dict.fromkeys(str(draft.values["function"]) for draft in scaling))
            self.notes.append(
                f"The network scales its input itself ({done}), before the first layer: declare the normalization none."
            )

    def _refused(self, node: Node, reason: str, hint: str = "") -> IntakeError:
        named_as = f" ({shown(node.name)})" if node.name else ""
        return self._error(f"The node {shown(node.op)}{named_as} of {shown(self.filename)} {reason}.", hint)

    @staticmethod
    def _error(message: str, hint: str = "") -> IntakeError:
        return IntakeError(message, hint)


def _use(constant: Const, draft: Draft) -> tuple[int, str]:
    """What tells one tensor of the network from another: the file's tensor, and the module that uses it."""
    return id(constant.tensor), draft.node.scope


def _squashed(draft: Draft, value: Live) -> str:
    """What turns logits into probabilities in this step: ``softmax``, for one logit ``sigmoid``; empty for anything else."""
    if draft.step is steps.Softmax and not draft.values["log"]:
        return "softmax"
    one = torch.Size(value.shape).numel() == 1
    return "sigmoid" if one and draft.step is steps.Activation and draft.values["function"] == "sigmoid" else ""


def _constant(node: Node) -> Tensor:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            value = node.attributes[name]
            return value if isinstance(value, Tensor) else torch.tensor(value)
    raise Refusal("is a constant that is not a tensor of numbers")
