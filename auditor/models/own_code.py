"""A network that is its owner's Python code: one file, its class and its options. It runs in the sandbox alone."""

from __future__ import annotations

import ast
import hashlib
import linecache
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field, JsonValue, field_validator
from torch import nn

from auditor.kit.errors import AuditorError, EvaluationError, IntakeError, SpecError
from auditor.kit.flag import Flag
from auditor.kit.wording import printable, shape_text
from auditor.models.architecture import Architecture
from auditor.models.outputs import outputs_of

KIND: Final = "own-code"
LONGEST_SOURCE = 1 << 20
"""Characters: a hundred times what a network takes."""

MODULE = "own_code_of_a_model"
"""What the file is called while it runs: no installed module, and not ``__main__``."""

INSTEAD = "Or install it as a package that brings an architecture (docs/extending.md), and add the weights with that."
_AGAIN = "Correct the file, and add the model again."
_permitted = False


def permit() -> None:
    """Let this process run owners' code. Only for a process that the sandbox's walls stand around."""
    global _permitted
    _permitted = True


class OwnCode(Architecture):
    """A class of one Python file. Not in the catalogue: neither a form nor a file that is read can name it."""

    kind: Literal["own-code"] = KIND
    title: ClassVar[str] = "Own code"
    by_hand: ClassVar[bool] = False

    num_classes: int = Field(0, ge=0, le=100_000, description="Number of classes; 0: as many as the network returns.")
    file: str = Field(pattern=r"^[^/\\]{1,97}\.py$", description="Name of the file.")
    source: str = Field(max_length=LONGEST_SOURCE, description="The file's text.")
    network: str = Field(max_length=500, description="How the network is made, such as Net(width=64).")

    @field_validator("file")
    @classmethod
    def _is_shown(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("a name that can be shown")
        return value

    @field_validator("network")
    @classmethod
    def _is_a_call(cls, value: str) -> str:
        name, options = _call(value)
        return f"{name}({', '.join(f'{key}={option!r}' for key, option in options.items())})"

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def facts(self) -> dict[str, JsonValue]:
        """What a result says of it: everything but the text, and the text's SHA-256."""
        return {**self.model_dump(mode="json", exclude={"source"}), "sha256": self.sha256}

    def describe(self) -> str:
        """``own-code:net.py,Net(width=64),num_classes=10,input=3x32x32``."""
        size = shape_text(self.input_shape)
        return f"{self.kind}:{self.file},{self.network},num_classes={self.num_classes},input={size}"

    def note(self) -> str:
        """What everybody who meets the model is told first."""
        return f"This model runs its owner's code, in the sandbox alone: {self.file} (SHA-256 {self.sha256}), {self.network}."

    def flag(self) -> Flag:
        """What every result says of it."""
        return Flag(
            name="owner's code",
            severity="warning",
            message="The model runs its owner's code. It ran in the sandbox, and in the same process as the measurement, so it "
            "could have changed the numbers.",
            evidence=f"{self.file} (SHA-256 {self.sha256}), {self.network}",
            remedy="Read the file before you trust the numbers, and name its SHA-256 with them.",
        )

    def remedy(self) -> str:
        name, _ = _call(self.network)
        return (
            "Give the class the options that the weights were trained with, such as "
            f"--code '{self.file}:{name}(width=64)'; or name the class that they are of."
        )

    def build(self) -> nn.Module:
        """See Architecture.build; on the meta device its tensors are made first, then dropped. Raises SpecError outside of the
        sandbox, IntakeError when the file makes no network.
        """
        if not _permitted:
            raise SpecError(
                f"{self.file} is its owner's code, which runs in the sandbox alone, and not for this.", INSTEAD
            )
        target = torch.get_default_device()
        with torch.device("cpu"), self.blamed():
            network = self._made()
        return network.to("meta") if target.type == "meta" else network

    def counted(self, output: str = "") -> OwnCode:
        """The same with the number of classes that the network returns for two images. Raises IntakeError.

        ``output``: which of several outputs holds the logits, by its name or its number from 0.
        """
        network = self.build().eval()
        hint = (
            f"If its images have another shape than {shape_text(self.input_shape)}, give that with --input, such as --input "
            f"1x28x28; or correct the file. {INSTEAD}"
        )
        with torch.no_grad(), self.blamed(hint):
            came = network(torch.zeros(2, *self.input_shape))
        classes = self._classes_in(came, output)
        if self.num_classes not in (0, classes):
            raise IntakeError(
                f"{self.network} of {self.file} returns {classes} logits, and {self.num_classes} classes were declared.",
                f"Declare `--num-classes {classes}`, or leave it out.",
            )
        return OwnCode.model_validate({**self.model_dump(), "num_classes": classes})

    def _classes_in(self, came: object, output: str) -> int:
        """The classes that the answer for two images has logits for; one logit counts as two. Raises IntakeError."""
        try:
            found = outputs_of(came, output)
        except EvaluationError as error:
            raise IntakeError(f"{self.network} of {self.file}: {error.message}", error.hint) from None
        logits = next(iter(found.values())) if len(found) == 1 else None
        sizes = [size for size in logits.shape[1:] if size != 1] if logits is not None else []
        if logits is None or logits.dim() < 2 or len(logits) != 2 or len(sizes) > 1:
            returned = shape_text(logits.shape) if logits is not None else type(came).__name__
            named = ", ".join(printable(name) for name in list(found)[:20])
            raise IntakeError(
                f"{self.network} of {self.file} returns {returned} for 2 images of {shape_text(self.input_shape)}, expected "
                "logits: a tensor of 2 x classes.",
                f"Let forward return the logits alone. {_AGAIN}"
                + (f" Or name the output that holds them with `--output`: it has {named}." if len(found) > 1 else ""),
            )
        return sizes[0] if sizes else 2

    @contextmanager
    def blamed(self, hint: str = "") -> Iterator[None]:
        """What the file raises within becomes an error that names it and the line; other errors pass."""
        try:
            yield
        except (AuditorError, MemoryError):
            raise
        except BaseException as error:  # also SystemExit
            if (module := self._unimported(error)) is not None:
                raise IntakeError(
                    f"{self.file} imports {printable(module)}, which the sandbox does not have ({_first_line(error)}).",
                    f"Put what it needs into the one file; only Python's own and installed packages can be imported. {INSTEAD}",
                ) from error
            if (line := self._line(error)) is None or "allocate memory" in str(error):
                raise
            what = f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")
            raise EvaluationError(f"{self.file} failed in line {line}: {what}.", hint or _AGAIN) from error

    def _unimported(self, error: BaseException) -> str | None:
        """The module that the file wanted and did not get: there is none, or the sandbox does not let it be read."""
        line, trace = self._line(error), error.__traceback__
        if line is None or trace is None:
            return None
        if isinstance(error, ModuleNotFoundError):
            return error.name
        while trace.tb_next is not None:
            trace = trace.tb_next
        if not (isinstance(error, OSError) and "importlib" in trace.tb_frame.f_code.co_filename):
            return None
        for node in ast.walk(self._tree()):
            if isinstance(node, ast.ImportFrom) and node.lineno == line:
                return node.module
            if isinstance(node, ast.Import) and node.lineno == line:
                return ", ".join(item.name for item in node.names)
        return None

    def _line(self, error: BaseException) -> int | None:
        """The innermost line of the file in which an error came up; None for an error from elsewhere."""
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.file:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line

    def _made(self) -> nn.Module:
        name, options = _call(self.network)
        maker = vars(self._module()).get(name)
        if not callable(maker):
            raise IntakeError(
                f"{self.file} has no class {name}.",
                f"It has {', '.join(self._classes()) or 'none'}: name one of these.",
            )
        try:
            network = maker(**options)
        except TypeError as error:
            if self._line(error) is not None:
                raise
            raise IntakeError(
                f"{self.network} of {self.file} cannot be called so: {_first_line(error)}.",
                f"Give its options by name: --code '{self.file}:{name}(option=value)'.",
            ) from error
        if not isinstance(network, nn.Module):
            raise IntakeError(
                f"{self.network} of {self.file} is {type(network).__name__}, expected a torch.nn.Module.",
                f"It has {', '.join(self._classes()) or 'no class'}: name a class of networks.",
            )
        return network

    def _module(self) -> ModuleType:
        """The file, run once in this process."""
        known = sys.modules.get(MODULE)
        if known is not None and known.__dict__.get("__sha256__") == self.sha256:
            return known
        module = ModuleType(MODULE)
        module.__dict__.update(__file__=self.file, __sha256__=self.sha256)
        linecache.cache[self.file] = (len(self.source), None, self.source.splitlines(keepends=True), self.file)
        tree = self._tree()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                raise IntakeError(
                    f"{self.file} imports {'.' * node.level}{printable(node.module or '')} from its folder (line {node.lineno}), "
                    "which is not kept with it.",
                    f"Put what it needs into the one file. {INSTEAD}",
                )
        sys.modules[MODULE] = module  # where dataclasses and copies look for it
        try:
            exec(compile(tree, self.file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  # the sandbox is for this
        except BaseException:
            del sys.modules[MODULE]
            raise
        return module

    def _tree(self) -> ast.Module:
        try:
            return ast.parse(self.source.encode(), self.file)
        except SyntaxError as error:
            raise IntakeError(f"{self.file} is no Python: {error.msg} (line {error.lineno}).", _AGAIN) from None
        except (ValueError, RecursionError) as error:
            raise IntakeError(f"{self.file} is no Python: {_first_line(error)}.", _AGAIN) from None

    def _classes(self) -> list[str]:
        return [node.name for node in self._tree().body if isinstance(node, ast.ClassDef)][:20]


def stored_code(architecture: Mapping[str, Any]) -> OwnCode | None:
    """The code of a model, by its stored architecture; None for one that has none."""
    return OwnCode.model_validate(architecture) if architecture.get("kind") == KIND else None


def facts_of(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """A stored architecture as results keep it: without the text of its owner's code."""
    code = stored_code(architecture)
    return dict(architecture) if code is None else code.facts()


def _call(text: str) -> tuple[str, dict[str, Any]]:
    """``Net``, ``Net()`` or ``Net(width=64)`` as a name and its options. Raises ValueError; nothing is run."""
    expected = f"expected a class and its options by name, such as Net or Net(width=64), got {printable(text)!r}"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        if not isinstance(call.func, ast.Name) or call.args or any(item.arg is None for item in call.keywords):
            raise ValueError(expected)
        return call.func.id, {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"{expected}; a value is a number, a text, True, False, None, or a list of these") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")[:300]
