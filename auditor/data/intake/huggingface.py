"""A folder of the Hugging Face hub, as a zip: config.json and the weights, with preprocessor_config.json where there is one.

Two sorts of folders are met: those of transformers, whose configuration has a ``model_type``, and those of timm, whose
configuration has an ``architecture`` and a ``pretrained_cfg``. No code of the folder is read, and nothing is fetched.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from pydantic import JsonValue, ValidationError
from torch import Tensor, nn

from auditor.data.intake import archive
from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.checkpoints import Checkpoint, load_zip
from auditor.data.intake.found import FoundModel, ModelReader
from auditor.data.intake.hub_config import Numbers, Preprocessor, TimmConfig, TransformersConfig
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.magic import ZIP
from auditor.data.intake.safe import load_safetensors
from auditor.kit.errors import AuditorError, IntakeError, SpecError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import listed, printable, shown
from auditor.models.architecture import ARCHITECTURES, Architecture
from auditor.models.architectures.timm_models import timm_library
from auditor.models.architectures.transformers_models import LogitsOf, transformers_library
from auditor.models.classifier import Normalization

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_TENSORS, _PICKLED = ".safetensors", "pytorch_model.bin"
_FOLDER = (
    "Expected config.json and model.safetensors, as the hub has them, with preprocessor_config.json where there is one."
)


def recognizes(source: Path, name: str, head: bytes) -> bool:
    """Whether it is a zip with a config.json and weights in one folder."""
    if not head.startswith(ZIP):
        return False
    try:
        with zipfile.ZipFile(source) as file:
            names = {entry.orig_filename for entry in file.infolist()[:10_000]}
    except Exception:  # torch's files are zips too, and damaged ones are refused elsewhere
        return False
    folders = {name.removesuffix(CONFIG) for name in names if name == CONFIG or name.endswith(f"/{CONFIG}")}
    return any(
        name.startswith(folder)
        and "/" not in name[len(folder) :]
        and name.endswith((_TENSORS, ".bin", ".h5", ".msgpack"))
        for folder in folders
        for name in names
    )


def read(source: Path, name: str, limits: Limits, asked: Asked = NOTHING_ASKED) -> FoundModel:
    """The classifier of a folder. Raises IntakeError; SpecError where the optional library is not installed."""
    with archive.opened(source, name, limits) as file:
        members = {member.orig_filename: member for member in file.infolist()}
        folders = sorted(
            entry.removesuffix(CONFIG) for entry in members if entry == CONFIG or entry.endswith(f"/{CONFIG}")
        )
        if len(folders) != 1:
            raise IntakeError(
                f"{shown(name)} holds {len(folders)} files called {CONFIG}; expected one, of one model.",
                "Make a zip of one model's folder alone.",
            )
        inside = {
            entry.removeprefix(folders[0]): member for entry, member in members.items() if entry.startswith(folders[0])
        }
        config = _json(file, inside[CONFIG], name, limits)
        preprocessor = _json(file, inside[PREPROCESSOR], name, limits) if PREPROCESSOR in inside else {}
        try:
            return _found(config, preprocessor, file, inside, name, limits, asked.output)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            entry = str(fault["loc"][0])
            raise IntakeError(
                f"{CONFIG} or {PREPROCESSOR} of {shown(name)} has an entry that cannot be read, {shown(entry)}: "
                f"{printable(fault['msg'])}, got {shown(str(fault['input']))}.",
                "Correct the entry, or fetch the folder again.",
            ) from None
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):  # entries of another sort
            raise IntakeError(
                f"{CONFIG} or {PREPROCESSOR} of {shown(name)} has entries that cannot be read.",
                "Fetch the folder again.",
            ) from None


def _found(
    config: dict[str, JsonValue],
    preprocessor: dict[str, JsonValue],
    file: zipfile.ZipFile,
    inside: Mapping[str, zipfile.ZipInfo],
    name: str,
    limits: Limits,
    output: str,
) -> FoundModel:
    with _weights(file, inside, name, limits) as checkpoint:
        if isinstance(config.get("model_type"), str) and config["model_type"] != "timm_wrapper":
            steps = Preprocessor.model_validate(preprocessor) if preprocessor else None
            return _of_transformers(TransformersConfig.model_validate(config), steps, checkpoint, name, output)
        if isinstance(config.get("architecture"), str):
            return _of_timm(TimmConfig.model_validate(config), checkpoint, name)._replace(output=output)
    raise IntakeError(
        f"The {CONFIG} of {shown(name)} names no network: expected the entry model_type (transformers) or architecture (timm).",
        _FOLDER,
    )


HUGGING_FACE = ModelReader(("zip",), recognizes, read)


def _json(file: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, limits: Limits) -> dict[str, JsonValue]:
    try:
        content = json.loads(archive.read_member(file, member, name, limits.header_bytes))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise IntakeError(
            f"{shown(member.orig_filename)} of {shown(name)} is not a JSON object.", "Fetch the folder again."
        )
    return content


@contextmanager
def _weights(
    file: zipfile.ZipFile, inside: Mapping[str, zipfile.ZipInfo], name: str, limits: Limits
) -> Iterator[Checkpoint]:
    """The tensors of a folder, all shards together; they are mapped, and last as long as the context does."""
    shards = sorted(entry for entry in inside if "/" not in entry and entry.endswith(_TENSORS))
    pickled = (
        [] if shards else sorted(entry for entry in inside if "/" not in entry and entry.startswith("pytorch_model"))
    )
    pickled = [entry for entry in pickled if entry.endswith(".bin")]
    if not shards and not pickled:
        raise IntakeError(
            f"{shown(name)} holds no weights of PyTorch, only {listed([shown(entry) for entry in inside], 5)}.",
            _FOLDER,
        )
    tensors: dict[str, Tensor] = {}
    with ExitStack() as open_files:  # files alone: in the sandbox no folder can be made
        for entry in shards or pickled:
            target = open_files.enter_context(NamedTemporaryFile(suffix=Path(entry).suffix))
            with archive.member_stream(file, inside[entry], name) as take:
                while piece := take(MIB):
                    target.write(piece)
            target.flush()
            part = (load_safetensors if shards else load_zip)(Path(target.name), entry, limits)
            if twice := sorted(part.tensors.keys() & tensors.keys()):
                raise IntakeError(
                    f"The tensor {shown(twice[0])} of {shown(name)} is in two files, {shown(entry)} and another.",
                    "Leave one set of weights in the folder, such as model.safetensors alone.",
                )
            tensors |= part.tensors
        yield Checkpoint(tensors, "Hugging Face folder")


def _of_timm(config: TimmConfig, checkpoint: Checkpoint, name: str) -> FoundModel:
    published = config.pretrained_cfg
    channels, height, width = published.input_size or (3, 224, 224)
    values = {
        "model": config.architecture, "num_classes": config.num_classes or published.num_classes or 1000,
        "channels": channels, "height": height, "width": width,
    }  # fmt: skip
    architecture = _built("timm", values, name)
    _check_arguments(config, architecture, name)
    tag = f".{published.tag}" if published.tag else ""
    notes = (f"The folder is timm's {shown(config.architecture + tag)}.",)
    share = published.crop_pct or 0.875
    size = _size(height, width, int(height / share), published.interpolation or "bicubic")
    normalization = _normalization(published.mean, published.std, 1.0, 0.0)
    names = _names(config.label_names or published.label_names, architecture)
    return FoundModel(architecture, _kept(checkpoint), normalization, names, size, notes)


def _check_arguments(config: TimmConfig, architecture: Architecture, name: str) -> None:
    """The arguments that timm's network was built with must make the usual one: some change it without another tensor.

    Raises IntakeError.
    """
    # The pool may stand apart from the arguments; it changes what is computed, and no tensor.
    pool = {"global_pool": config.global_pool} if config.global_pool else {}
    arguments = pool | (config.model_args or {})
    with torch.device("meta"):
        usual = architecture.build()
        try:
            own = timm_library().create_model(
                config.architecture,
                pretrained=False,
                **{"num_classes": architecture.num_classes, "in_chans": architecture.channels, **arguments},
            )
        except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError):
            own = nn.Identity()
    if repr(own.train()) != repr(usual.train()) or str(getattr(own, "global_pool", "")) != str(
        getattr(usual, "global_pool", "")
    ):
        raise IntakeError(
            f"The network of {shown(name)} was built with arguments (model_args: {listed(sorted(map(str, arguments)), 5)}) that "
            "change it; only timm's usual form can be built.",
            "Export it to ONNX and add that file.",
        )


def _of_transformers(
    config: TransformersConfig, preprocessor: Preprocessor | None, checkpoint: Checkpoint, name: str, output: str
) -> FoundModel:
    transformers = transformers_library()
    notes = []
    if config.code:
        notes.append(f"The folder names code of its own ({', '.join(config.code)}), which was neither read nor run.")
    if config.fetched:
        raise IntakeError(
            f"The {CONFIG} of {shown(name)} builds on another network ({config.fetched[0]}), which would have to be fetched.",
            "Export the model to ONNX and add that file.",
        )
    classes = len(config.id2label) or config.num_labels or 2
    height, width, size = _image_size(preprocessor or Preprocessor(), config)
    given: dict[str, Any] = {
        "num_classes": classes,
        "channels": config.num_channels or 3,
        "height": height,
        "width": width,
    }
    given |= {"output": output} if output else {}
    architecture = _built("transformers", given | {"model": config.model_type, "config": config.shaping}, name)
    try:
        network = architecture.build()
    except SpecError as error:
        raise IntakeError(f"The {CONFIG} of {shown(name)} cannot be followed: {error.message}", error.hint) from None
    assert isinstance(network, LogitsOf)
    try:
        library_class: Any = type(network.network)
        loaded, info = library_class.from_pretrained(
            None,
            config=network.network.config,
            state_dict=dict(checkpoint.tensors),
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # whatever tensors out of a file make of a library
        raise _unfit(name, config.model_type, str(error)) from None
    if missing := sorted(info["missing_keys"]) or sorted(map(str, info["mismatched_keys"])):
        raise _unfit(
            name,
            config.model_type,
            f"{len(missing):,} tensors are missing or of another shape: {listed(missing, 3)}",
        )
    if left := sorted(info["unexpected_keys"]):
        notes.append(
            f"Left out, since the classifier has no place for them: {listed([shown(item) for item in left], 5)}."
        )
    tensors = {f"network.{key}": value.clone() for key, value in loaded.state_dict().items()}
    notes.insert(0, f"The folder is a {type(network.network).__name__} of transformers {transformers.__version__}.")
    names = [config.id2label.get(index, "") for index in range(classes)]
    if all(label in ("", f"LABEL_{index}") for index, label in enumerate(names)):
        names = []
    normalization = _preprocessed(preprocessor, notes)
    return FoundModel(
        architecture,
        Checkpoint(tensors, checkpoint.format),
        normalization,
        _names(names, architecture),
        size,
        tuple(notes),
    )


def _built(kind: str, values: Mapping[str, object], name: str) -> Architecture:
    """The architecture that a configuration asks for. Raises IntakeError that says what of it cannot be."""
    try:
        return ARCHITECTURES.build(kind, values)
    except SpecError as error:
        raise IntakeError(f"The {CONFIG} of {shown(name)} cannot be followed: {error.message}", error.hint) from None
    except (ValidationError, TypeError, ValueError):
        raise IntakeError(f"The {CONFIG} of {shown(name)} cannot be followed.", _FOLDER) from None


def _unfit(name: str, sort: str, what: str) -> IntakeError:
    reason = what.splitlines()[0][:200] if what else "no reason given"
    return IntakeError(
        f"The weights in {shown(name)} do not fit the {shown(sort)} of its {CONFIG} ({printable(reason)}).",
        "Save the model and its configuration together again: model.save_pretrained('folder'), then make a zip of the folder.",
    )


def _kept(checkpoint: Checkpoint) -> Checkpoint:
    """The same tensors, copied: the file they are mapped from goes away."""
    return checkpoint._replace(tensors={key: value.clone() for key, value in checkpoint.tensors.items()})


def _names(names: object, architecture: Architecture) -> tuple[str, ...] | None:
    if not isinstance(names, list) or len(names) != architecture.num_classes or not all(map(str, names)):
        return None
    found = tuple(str(item) for item in names)
    return found if len(set(found)) == len(found) else None


def _image_size(preprocessor: Preprocessor, config: TransformersConfig) -> tuple[int, int, ImageSize | None]:
    """(height, width) of an image of the network, and how images are brought to it."""
    resized, how = preprocessor.resized, preprocessor.interpolation
    side = resized.shortest_edge if resized is not None else None
    if preprocessor.cropped is not None:
        height, width = preprocessor.cropped
        return height, width, _size(height, width, side, how)
    if side is not None:
        share = preprocessor.crop_pct  # ConvNeXt: below 384 pixels it resizes to more, then crops
        return side, side, _size(side, side, int(side / share) if share and side < 384 else None, how)
    if resized is not None and resized.sides is not None:
        height, width = resized.sides
        return height, width, ImageSize.model_validate({"height": height, "width": width, "interpolation": how})
    height, width = config.sides
    return height, width, None


def _size(height: int, width: int, side: int | None, interpolation: str) -> ImageSize:
    known = interpolation if interpolation in ("bilinear", "bicubic", "nearest", "lanczos") else "bilinear"
    return ImageSize.model_validate(
        {"height": height, "width": width, "mode": "resize-crop", "shorter_side": side, "interpolation": known}
    )


def _preprocessed(preprocessor: Preprocessor | None, notes: list[str]) -> Normalization | None:
    """Mean and deviation as the image processor of transformers applies them, in terms of pixels from 0 to 1."""
    if preprocessor is None:
        notes.append(f"There is no {PREPROCESSOR}, so the normalization is not known from the folder.")
        return None
    factor = 255 * preprocessor.rescale_factor if preprocessor.do_rescale else 255.0
    offset = 1.0 if preprocessor.do_rescale and preprocessor.rescale_offset else 0.0
    mean, std = preprocessor.image_mean, preprocessor.image_std
    if not preprocessor.do_normalize:  # MobileViT's files have mean and deviation, and its processor takes neither
        mean, std = (0.0,), (1.0,)
    if mean is None or std is None:
        return None
    if preprocessor.include_top:  # EfficientNet divides by the deviation once more
        std = tuple(value * value for value in std)
    order = "BGR" if preprocessor.do_flip_channel_order else "RGB"
    found = _normalization(mean, std, factor, offset)
    return found.model_copy(update={"channel_order": order}) if found is not None else None


def _normalization(mean: Numbers, std: Numbers, factor: float, offset: float) -> Normalization | None:
    """(factor * x - offset - mean) / std as (x - mean') / std'; None for numbers that cannot be meant."""
    if mean is None or std is None:
        return None
    try:
        return Normalization(
            mean=tuple((value + offset) / factor for value in mean), std=tuple(value / factor for value in std)
        )
    except (ValueError, AuditorError, ZeroDivisionError):
        return None
