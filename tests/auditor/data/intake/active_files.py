"""Files with active content, several of each format: loaded the trusting way each one makes a marker, an empty file.

``CASES`` are asked for by format. ``read_all`` reads files as the product does; the test calls it in the sandbox, too.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from auditor.kit.errors import AuditorError
from worker import reading

Outcome = Literal["taken", "refused"]
ARCHITECTURE = {"kind": "lenet5", "height": 16, "width": 16}
ENTRIES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
LABELS = np.arange(6) % 2


def python(marker: Path) -> str:
    """An expression that makes the marker."""
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


class Runs:
    """Pickled, a call that makes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (python(self.marker),)


class Strange(nn.Module):
    """A whole model whose class makes the marker when its state is set."""

    def __init__(self, network: nn.Module, marker: Path) -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        self.marker = str(marker)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["marker"]).touch()
        self.__dict__.update(state)


class Case(NamedTuple):
    """``make``: writes the file, given its path and the marker's; ``trusting``: what loads it so that the marker is made."""

    what: str
    name: str
    outcome: Outcome
    make: Callable[[Path, Path], None]
    trusting: Callable[[Path], object]


def network() -> nn.Module:
    from auditor.models.architecture import ARCHITECTURES

    torch.manual_seed(0)
    return ARCHITECTURES.build("lenet5", {"height": 16, "width": 16}).build()


# Weights.


def _load(path: Path) -> object:
    return torch.load(path, weights_only=False)


def _beside(**options: Any) -> Callable[[Path, Path], None]:
    return lambda path, marker: torch.save(
        {"state_dict": network().state_dict(), "args": Runs(marker)}, path, **options
    )


def _whole(**options: Any) -> Callable[[Path, Path], None]:
    return lambda path, marker: torch.save(Strange(network(), marker), path, **options)


def _instead(**options: Any) -> Callable[[Path, Path], None]:
    return lambda path, marker: torch.save(Runs(marker), path, **options)


LEGACY = {"_use_new_zipfile_serialization": False}


def _torch(options: dict[str, Any]) -> list[Case]:
    return [
        Case("a call beside the weights", "weights.pt", "taken", _beside(**options), _load),
        Case(
            "a call beside the weights, protocol 4", "weights.pt", "taken", _beside(**options, pickle_protocol=4), _load
        ),
        Case("a whole model", "model.pt", "taken", _whole(**options), _load),
        Case("a call in place of the weights", "weights.pt", "refused", _instead(**options), _load),
    ]


def _safetensors(path: Path, marker: Path) -> None:
    from safetensors.torch import save_file

    text = python(marker)
    save_file(network().state_dict(), path, {"format": "pt", "__reduce__": text, text: text, "config": text})


def _metadata(path: Path) -> object:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return eval(file.metadata()["__reduce__"])


def _named(path: Path, marker: Path) -> None:
    from safetensors.torch import save_file

    save_file({python(marker): torch.zeros(2), **network().state_dict()}, path)


def _a_name(path: Path) -> object:
    from safetensors.torch import load_file

    return eval(next(name for name in load_file(path) if name.startswith("__import__")))


def _vit() -> Any:
    import transformers

    sizes: dict[str, Any] = {
        "num_labels": 2,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "intermediate_size": 16,
    }
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=8, **sizes))


def _folder(path: Path, marker: Path, weights: Mapping[str, bytes]) -> None:
    """A folder of the hub with code of its own."""
    own = {"AutoConfig": "own.Own", "AutoModelForImageClassification": "own.Own", "AutoImageProcessor": "own.Own"}
    config = _vit().config.to_dict() | {"model_type": "vit", "auto_map": own, "trust_remote_code": True}
    processor = {"auto_map": own, "image_processor_type": "Own", "do_normalize": True, "image_mean": [0.5] * 3}
    processor |= {"image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}
    _zip(
        path,
        {
            "vit/config.json": json.dumps(config).encode(),
            "vit/preprocessor_config.json": json.dumps(processor).encode(),
            "vit/own.py": python(marker).encode(),
            "vit/__init__.py": python(marker).encode(),
            "vit/handler.py": python(marker).encode(),
            **{f"vit/{name}": content for name, content in weights.items()},
        },
    )


def _folder_safe(path: Path, marker: Path) -> None:
    from safetensors.torch import save

    _folder(path, marker, {"model.safetensors": save(_vit().state_dict(), {"format": "pt", "run": python(marker)})})


def _folder_pickled(path: Path, marker: Path) -> None:
    torch.save({**_vit().state_dict(), "extra": Runs(marker)}, stream := io.BytesIO())
    _folder(path, marker, {"pytorch_model.bin": stream.getvalue(), "training_args.bin": pickle.dumps(Runs(marker))})


def _run_member(ending: str) -> Callable[[Path], object]:
    def run(path: Path) -> None:
        with zipfile.ZipFile(path) as file:
            exec(file.read(next(name for name in file.namelist() if name.endswith(ending))))

    return run


def _pickle_member(ending: str) -> Callable[[Path], object]:
    def run(path: Path) -> object:
        with zipfile.ZipFile(path) as file:
            return pickle.loads(file.read(next(name for name in file.namelist() if name.endswith(ending))))

    return run


def _onnx(change: Callable[[Any, str], None]) -> Callable[[Path, Path], None]:
    def make(path: Path, marker: Path) -> None:
        import onnx
        from onnx import helper

        from tests.auditor.data.intake.onnx_files import graph_file, head

        nodes, tensors = head("c", 4 * 6 * 6)
        weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype("float32")
        graph_file(path, [helper.make_node("Conv", ["x", "w"], ["c"]), *nodes], {"w": weight, **tensors})
        model = onnx.load(str(path))
        change(model, python(marker))
        model.doc_string = python(marker)
        path.write_bytes(model.SerializeToString())

    return make


def _described(model: Any, text: str) -> None:
    for holder in (model, model.graph.node[0]):
        for key in ("run", "pkg.torch.onnx.stack_trace", text):
            holder.metadata_props.add(key=key, value=text)
    model.producer_name = model.graph.name = text
    model.graph.node[0].name = model.graph.node[0].doc_string = text


def _custom(model: Any, text: str) -> None:
    """An operator as onnxruntime-extensions' PyOp, which calls Python."""
    from onnx import helper

    model.graph.node.append(helper.make_node("PyOp", ["x"], ["z"], domain="ai.onnx.contrib", code=text, name=text))
    model.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))


def _function(model: Any, text: str) -> None:
    from onnx import helper

    body = [helper.make_node("Relu", ["a"], ["b"], doc_string=text, name=text)]
    model.functions.append(
        helper.make_function("local", "Run", ["a"], ["b"], body, [helper.make_opsetid("", 18)], doc_string=text)
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[1].input[0] = "r"
    model.graph.node.insert(1, helper.make_node("Run", ["c"], ["r"], domain="local"))


def _external(model: Any, text: str) -> None:
    from onnx import TensorProto

    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=text)


def _described_by(path: Path) -> object:
    import onnx

    return eval(onnx.load(str(path), load_external_data=False).doc_string)


MODELS: dict[str, list[Case]] = {
    "torch zip": _torch({}),
    "torch legacy": _torch(LEGACY),
    "safetensors": [
        Case("metadata", "weights.safetensors", "taken", _safetensors, _metadata),
        Case("the name of a tensor", "weights.safetensors", "refused", _named, _a_name),
    ],
    "Hugging Face folder": [
        Case("code and safetensors", "folder.zip", "taken", _folder_safe, _run_member("own.py")),
        Case("code and a pickle", "folder.zip", "taken", _folder_pickled, _pickle_member("training_args.bin")),
    ],
    "ONNX": [
        Case("names and descriptions", "m.onnx", "taken", _onnx(_described), _described_by),
        Case("a function", "m.onnx", "taken", _onnx(_function), _described_by),
        Case("an operator that calls Python", "m.onnx", "refused", _onnx(_custom), _described_by),
        Case("the path of another file", "m.onnx", "refused", _onnx(_external), _described_by),
    ],
}
"""Files of models, by the format that their manifest states."""


# Data sets.


def _zip(path: Path, entries: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)


def _png(image: np.ndarray) -> bytes:
    Image.fromarray(image).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def _npy(array: np.ndarray) -> bytes:
    np.save(stream := io.BytesIO(), array, allow_pickle=True)
    return stream.getvalue()


def _objects(marker: Path) -> np.ndarray:
    return np.array([Runs(marker)] * len(LABELS), object)


def _npz(path: Path, marker: Path) -> None:
    np.savez(path, images=ENTRIES, labels=LABELS, extra=_objects(marker), allow_pickle=True)


def _npz_labels(path: Path, marker: Path) -> None:
    np.savez(path, images=ENTRIES, labels=_objects(marker), allow_pickle=True)


def _npz_header(path: Path, marker: Path) -> None:
    text = python(marker).encode()
    header = b"\x93NUMPY\x01\x00" + len(text + b"\n").to_bytes(2, "little") + text + b"\n"
    _zip(path, {"images.npy": _npy(ENTRIES), "labels.npy": header + bytes(48)})


def _npz_load(key: str) -> Callable[[Path], object]:
    return lambda path: np.load(path, allow_pickle=True)[key]


def _npz_eval(path: Path) -> object:
    with zipfile.ZipFile(path) as file:
        return eval(file.read("labels.npy")[10:].partition(b"\n")[0])


def _arrays(path: Path, marker: Path) -> None:
    entries = {"images.npy": _npy(ENTRIES), "labels.npy": _npy(LABELS), "extra.npy": _npy(_objects(marker))}
    _zip(path, entries | {"setup.py": python(marker).encode()})


def _idx(path: Path, marker: Path) -> None:
    def idx(array: np.ndarray) -> bytes:
        sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
        return bytes((0, 0, 8, array.ndim)) + sides + array.astype("u1").tobytes()

    entries = {"t10k-images-idx3-ubyte": idx(ENTRIES[..., 0]), "t10k-labels-idx1-ubyte": idx(LABELS)}
    _zip(path, entries | {"setup.py": python(marker).encode(), "conftest.py": python(marker).encode()})


def _classes(path: Path, marker: Path, **more: bytes) -> None:
    images = {
        f"{'cat' if label else 'dog'}/{at}.png": _png(image)
        for at, (image, label) in enumerate(zip(ENTRIES, LABELS, strict=True))
    }
    text = python(marker).encode()
    code = {"cat/__init__.py": text, "setup.py": text, "dog/run.sh": text, "labels.csv": b"=" + text, "x.json": text}
    _zip(path, images | code | more)


def _classes_with_pickle(path: Path, marker: Path) -> None:
    _classes(path, marker, **{"cat/7.pickle": pickle.dumps(Runs(marker)), "cat/8.png": pickle.dumps(Runs(marker))})


def _classes_with_postscript(path: Path, marker: Path) -> None:
    """Ghostscript runs what Pillow hands it as EPS."""
    program = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n("
        + str(marker).encode()
        + b") (w) file closefile\nshowpage\n"
    )
    _classes(path, marker, **{"cat/7.png": program})


def _table(change: Callable[[Any, Path], Any]) -> Callable[[Path, Path], None]:
    def make(path: Path, marker: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(change(pa.table({"image": [_png(image) for image in ENTRIES], "label": LABELS}), marker), path)

    return make


def _extended(table: Any, marker: Path) -> Any:
    """A type that pyarrow, up to 20, made by unpickling; and metadata with code."""
    import pyarrow as pa

    call, text = pickle.dumps(Runs(marker)), python(marker).encode()
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": call, b"pickled": call}
    features = {"info": {"features": {"label": {"_type": text.decode(), "names": [text.decode(), "b"]}}}}
    fields = [table.schema.field("image"), table.schema.field("label").with_metadata(kind)]
    described = {b"huggingface": json.dumps(features).encode(), b"pandas": text, b"run": text, b"pickled": call}
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, metadata=described))


def _cells(table: Any, marker: Path) -> Any:
    import pyarrow as pa

    return pa.table({"image": [pickle.dumps(Runs(marker))] * len(LABELS), "label": LABELS})


def _saved(change: Callable[[Any, Path], Any]) -> Callable[[Path, Path], None]:
    """The same tables as a folder of save_to_disk, as a zip."""

    def make(path: Path, marker: Path) -> None:
        import pyarrow as pa

        table = change(pa.table({"image": [_png(image) for image in ENTRIES], "label": LABELS}), marker)
        with pa.ipc.new_stream(stream := io.BytesIO(), table.schema) as file:
            file.write_table(table)
        text = python(marker).encode()
        beside = {"state.json": b"{}", "dataset_info.json": json.dumps({"builder": text.decode()}).encode()}
        code = {"d/loading.py": text, "d/cache-1.arrow": pickle.dumps(Runs(marker))}
        _zip(
            path,
            {"d/data-00000-of-00001.arrow": stream.getvalue(), **code}
            | {f"d/{name}": it for name, it in beside.items()},
        )

    return make


def _schema_pickle(path: Path) -> object:
    import pyarrow.parquet as pq

    return pickle.loads(pq.read_schema(path).metadata[b"pickled"])


def _cell_pickle(path: Path) -> object:
    import pyarrow.parquet as pq

    return pickle.loads(pq.read_table(path)["image"][0].as_py())


def _tar(path: Path, entries: Mapping[str, bytes], odd: tarfile.TarInfo | None = None) -> None:
    with tarfile.open(path, "w") as file:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        if odd is not None:
            file.addfile(odd)


def _shard(ending: str, label: bool = True) -> Callable[[Path, Path], None]:
    def make(path: Path, marker: Path) -> None:
        if ending in ("pth", "pt"):
            torch.save(Runs(marker), stream := io.BytesIO())
            call = stream.getvalue()
        else:
            call = pickle.dumps(Runs(marker))
        entries: dict[str, bytes] = {}
        for at, (image, number) in enumerate(zip(ENTRIES, LABELS, strict=True)):
            entries |= {f"{at}.png": _png(image), f"{at}.{ending}": call}
            entries |= {f"{at}.cls": str(number).encode()} if label else {}
        _tar(path, entries)

    return make


def _shard_with_names(path: Path, marker: Path) -> None:
    text = python(marker).replace("/", "\u2215")
    entries: dict[str, bytes] = {}
    for at, (image, number) in enumerate(zip(ENTRIES, LABELS, strict=True)):
        key = f"{text}{at}".replace(".", "_")
        entries |= {f"{key}.png": _png(image), f"{key}.cls": str(number).encode(), f"{key}.py": python(marker).encode()}
    _tar(path, entries)


def _shard_with(kind: bytes) -> Callable[[Path, Path], None]:
    def make(path: Path, marker: Path) -> None:
        odd = tarfile.TarInfo("9.png")
        odd.type, odd.linkname, odd.devmajor, odd.devminor = kind, str(marker), 1, 7
        entries = {"9.cls": b"1", "code.py": python(marker).encode()}
        _tar(path, {"8.png": _png(ENTRIES[0]), "8.cls": b"0", **entries}, odd)

    return make


def _decode(path: Path) -> object:
    import webdataset  # type: ignore[import-untyped]

    return list(webdataset.WebDataset(str(path), shardshuffle=False).decode())


def _tar_member(name: str, run: Callable[[bytes], object]) -> Callable[[Path], object]:
    def act(path: Path) -> object:
        with tarfile.open(path) as file:
            member = next(item for item in file.getnames() if item.endswith(name))
            content = file.extractfile(member)
            assert content is not None
            return run(content.read())

    return act


def _cifar(**beside: str) -> Callable[[Path, Path], None]:
    def make(path: Path, marker: Path) -> None:
        pixels = np.zeros((2, 3072), np.uint8)
        batch: dict[Any, Any] = {b"data": pixels, b"labels": [0, 1], b"filenames": [b"a", b"b"]}
        batch |= {key.encode(): Runs(marker) for key in beside.values()}
        _tar(path, {"c/test_batch": pickle.dumps(batch, 2), "c/setup.py": python(marker).encode()})

    return make


def _pair(path: Path, marker: Path) -> None:
    """As MNIST was kept: a tuple of tensors; here with a call after it."""
    torch.save((torch.from_numpy(ENTRIES), torch.from_numpy(LABELS), Runs(marker)), path)


def _pair_legacy(path: Path, marker: Path) -> None:
    torch.save((torch.from_numpy(ENTRIES), torch.from_numpy(LABELS), Runs(marker)), path, **LEGACY)


DATA: dict[str, list[Case]] = {
    "npz": [
        Case("objects beside", "data.npz", "taken", _npz, _npz_load("extra")),
        Case("objects as labels", "data.npz", "refused", _npz_labels, _npz_load("labels")),
        Case("a header", "data.npz", "refused", _npz_header, _npz_eval),
    ],
    "npy": [Case("objects and code beside", "arrays.zip", "taken", _arrays, _run_member("setup.py"))],
    "idx": [Case("code beside", "mnist.zip", "taken", _idx, _run_member("setup.py"))],
    "image folders": [
        Case("code beside", "folders.zip", "taken", _classes, _run_member("__init__.py")),
        Case("pickles as images", "folders.zip", "refused", _classes_with_pickle, _pickle_member("8.png")),
        Case("PostScript as an image", "folders.zip", "refused", _classes_with_postscript, _run_member("__init__.py")),
    ],
    "parquet": [
        Case("types and metadata", "data.parquet", "taken", _table(_extended), _schema_pickle),
        Case("pickles as images", "data.parquet", "refused", _table(_cells), _cell_pickle),
    ],
    "arrow": [
        Case(
            "types, metadata and code beside", "saved.zip", "taken", _saved(_extended), _pickle_member("cache-1.arrow")
        ),
        Case("pickles as images", "saved.zip", "refused", _saved(_cells), _run_member("loading.py")),
    ],
    "webdataset": [
        Case("pyd", "data.tar", "taken", _shard("pyd"), _decode),
        Case("pickle", "data.tar", "taken", _shard("pickle"), _decode),
        Case("pth", "data.tar", "taken", _shard("pth"), _tar_member("0.pth", lambda data: _load_bytes(data))),
        Case("pyd in place of the label", "data.tar", "refused", _shard("pyd", label=False), _decode),
        Case("names", "data.tar", "taken", _shard_with_names, _tar_member(".py", exec)),
        Case("a symbolic link", "data.tar", "refused", _shard_with(tarfile.SYMTYPE), _tar_member("code.py", exec)),
        Case("a hard link", "data.tar", "refused", _shard_with(tarfile.LNKTYPE), _tar_member("code.py", exec)),
        Case("a device", "data.tar", "refused", _shard_with(tarfile.CHRTYPE), _tar_member("code.py", exec)),
        Case("a pipe", "data.tar", "refused", _shard_with(tarfile.FIFOTYPE), _tar_member("code.py", exec)),
    ],
    "cifar batches": [
        Case("a call beside", "cifar.tar", "taken", _cifar(beside="extra"), _tar_member("test_batch", pickle.loads)),
        Case(
            "a call as labels", "cifar.tar", "refused", _cifar(beside="labels"), _tar_member("test_batch", pickle.loads)
        ),
    ],
    "none": [
        Case("a data set by torch.save", "test.pt", "refused", _pair, _load),
        Case("a data set by torch.save, legacy", "test.pt", "refused", _pair_legacy, _load),
    ],
}
"""Data sets, by the format that their manifest states; "none": what no reader takes."""


def _load_bytes(data: bytes) -> object:
    return torch.load(io.BytesIO(data), weights_only=False)


# Reading them.


def load_trusting(file: str) -> None:
    """Load torch's files the trusting way, which makes the marker."""
    _load(Path(file))


def read_all(files: list[str], destination: str) -> dict[str, list[str]]:
    """Read each file in every way in which the product does: what was said of it, and the format it was taken for.

    A file of a model is one in a folder called "model". Each file's marker lies in the folder of ``destination``.
    """
    found = {}
    for file in files:
        name = Path(file).name
        for step in MODEL_STEPS if Path(file).parent.name == "model" else DATA_STEPS:
            try:
                found[file] = ["taken", step(file, name, destination)["format"]]
            except AuditorError as error:
                found[file] = ["refused", str(error)]
            Path(destination).unlink(missing_ok=True)
    return found


def _described_as(name: str) -> dict[str, Any] | None:
    """The architecture that is given with a file; none for those that name their own."""
    return None if name.endswith((".zip", ".onnx")) else ARCHITECTURE


NOTHING = {"size": None, "output": ""}
MODEL_STEPS: tuple[Callable[[str, str, str], dict[str, Any]], ...] = (
    lambda file, name, destination: reading.inspect_model_inside(file, name, destination, "", NOTHING),
    lambda file, name, destination: reading.read_model_inside(
        file, name, destination, _described_as(name), "", 1, NOTHING
    ),
)
DATA_STEPS: tuple[Callable[[str, str, str], dict[str, Any]], ...] = (
    lambda file, name, destination: reading.look_into_dataset_inside(file, name, destination, ""),
    lambda file, name, destination: reading.read_dataset_inside(file, name, destination, {"leave_out": True}),
    lambda file, name, destination: reading.read_dataset_inside(file, name, destination, {}),
)
"""What is done with a file; the outcome of the last step counts."""
