"""ONNX files that are refused: each with a sentence that names what came, and a remedy. Nothing of a file runs or is followed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from auditor.data.intake.onnx.convert import convert
from auditor.data.intake.onnx.reader import recognizes
from auditor.data.intake.weights import take_model
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.models.architectures.onnx import Onnx
from tests.auditor.data.intake.onnx_files import agrees, export, graph_file, head, network_of, onnxruntime_logits
from worker.reading import read_model
from worker.settings import Settings

make = helper.make_node


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def refused(path: Path, *words: str, **options: Any) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        convert(path, path.name, **options)
    for word in words:
        assert word in str(caught.value)
    return caught.value


def small(path: Path, **options: Any) -> Path:
    """A file that is taken."""
    nodes, tensors = head("c", 4 * 6 * 6)
    return graph_file(path, [make("Conv", ["x", "w"], ["c"]), *nodes], {"w": weights(4, 3, 3, 3), **tensors}, **options)


def changed(path: Path, change: Any) -> Path:
    model = onnx.load(str(small(path)))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_the_file_that_the_others_are_changed_from_is_taken(tmp_path: Path) -> None:
    agrees(small(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (make("NonZero", ["x"], ["y"], name="odd"), ("'NonZero' ('odd')", "is an operator that has no layer here", "Conv")),
        (make("TopK", ["x", "k"], ["y", "i"]), ("'TopK'", "no layer here")),
        (make("Cast", ["x"], ["y"], to=TensorProto.INT64), ("'Cast'", "no gradient")),
        (make("ReduceMean", ["x", "batch"], ["y"]), ("'ReduceMean'", "over the images of a batch")),
        (make("Softmax", ["x"], ["y"], axis=0), ("'Softmax'", "over the images of a batch")),
        (make("Concat", ["x", "x"], ["y"], axis=0), ("'Concat'", "dimension of the images")),
        (make("Gather", ["x", "k"], ["y"], axis=0), ("'Gather'", "some of the images")),
        (make("MatMul", ["one", "x"], ["y"]), ("'MatMul'", "cannot be run on a batch")),
        (make("Add", ["x", "nan"], ["y"]), ("'Add'", "infinite or NaN")),
        (make("BatchNormalization", ["x", "c", "c", "c", "c"], ["y", "", ""], training_mode=1), ("training mode", "eval()")),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)  # fmt: skip
def test_a_node_that_cannot_be_converted_is_named(node: onnx.NodeProto, words: tuple[str, ...], tmp_path: Path) -> None:
    tensors = {
        "k": np.array([0], "int64"), "batch": np.array([0], "int64"), "one": weights(5, 7), "nan": np.float32("nan"),
        "c": np.ones(3, "float32"),
    }  # fmt: skip
    used = {name: value for name, value in tensors.items() if name in node.input}
    refused(graph_file(tmp_path / "m.onnx", [node], used), "'m.onnx'", *words)


def test_branches_and_custom_domains_are_refused_before_the_checker(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [make("Identity", ["x"], ["z"])], "inner", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    branch = make("If", ["c"], ["y"], then_branch=inner, else_branch=inner, name="choice")
    refused(graph_file(tmp_path / "if.onnx", [branch], {"c": np.array(True)}), "'choice'", "'If'", "another graph")
    custom = make("Run", ["x"], ["y"], domain="com.example", name="shell", command="touch canary")
    error = refused(graph_file(tmp_path / "custom.onnx", [custom], {}), "'shell'", "'Run'", "'com.example'")
    assert "custom" in error.hint
    tree = make("TreeEnsembleClassifier", ["x"], ["y"], domain="ai.onnx.ml")
    refused(graph_file(tmp_path / "tree.onnx", [tree], {}), "'ai.onnx.ml'")


def test_functions_inside_the_file_are_written_out(tmp_path: Path) -> None:
    """Their operators must be ONNX's own, as everywhere."""
    for name, domain in (("good", ""), ("bad", "com.example")):
        body = [helper.make_node("Relu", ["a"], ["b"], domain=domain)]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
        function = helper.make_function("local", "Act", ["a"], ["b"], body, imports)

        def change(model: onnx.ModelProto, function: onnx.FunctionProto = function) -> None:
            model.functions.append(function)
            model.opset_import.extend([helper.make_opsetid("local", 1), helper.make_opsetid("com.example", 1)])
            model.graph.node[1].input[0] = "r"
            model.graph.node.insert(1, make("Act", ["c"], ["r"], domain="local"))

        path = changed(tmp_path / f"{name}.onnx", change)
        if name == "good":
            assert "activation" in [step.op for step in convert(path, path.name).architecture.graph.steps]
        else:
            refused(path, "'Relu'", "'com.example'")


def test_limits_on_nodes_tensors_and_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path / "m.onnx")
    refused(path, "has 3 tensors, the limit is 2", limits=Limits(tensors=2))
    monkeypatch.setattr("auditor.data.intake.onnx.document.MOST_NODES", 2)
    refused(path, "has 3 nodes, the limit is 2")
    monkeypatch.undo()
    many = changed(tmp_path / "many.onnx", lambda model: model.graph.node[0].attribute.append(
        helper.make_attribute("pads", [0] * 100_001)))  # fmt: skip
    refused(many, "'pads'", "more than 100,000 values")


def test_a_constant_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """Sixteen bytes that ask for four terabytes."""
    nodes = [
        make("ConstantOfShape", ["s"], ["big"]),
        make("ReduceSum", ["big"], ["n"], keepdims=0),
        make("Add", ["x", "n"], ["y"]),
    ]
    refused(
        graph_file(tmp_path / "m.onnx", nodes, {"s": np.array([1 << 20, 1 << 20])}), "'ConstantOfShape'", "64 million"
    )
    nodes = [make("Expand", ["one", "s"], ["big"]), make("Add", ["x", "big"], ["y"])]
    tensors = {"one": np.ones(1, "float32"), "s": np.array([1 << 20, 1 << 20])}
    refused(graph_file(tmp_path / "n.onnx", nodes, tensors), "'Expand'", "64 million")


def test_a_step_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    nodes = [make("Pad", ["x", "p"], ["a"]), make("GlobalAveragePool", ["a"], ["b"]), make("Flatten", ["b"], ["f"]),
             make("Gemm", ["f", "w"], ["y"], transB=1)]  # fmt: skip
    tensors = {"p": np.array([0, 0, 4096, 4096, 0, 0, 4096, 4096]), "w": weights(10, 3)}
    refused(graph_file(tmp_path / "m.onnx", nodes, tensors), "values per image")


def test_operator_sets_that_are_too_old_or_too_new(tmp_path: Path) -> None:
    path = changed(tmp_path / "m.onnx", lambda model: setattr(model.opset_import[0], "version", 9))
    assert "opset_version" in refused(path, "operator set 9; expected one from 11 to").hint
    newer = onnx.version_converter.convert_version(onnx.load(str(path)), 13)
    onnx.save(newer, path)
    agrees(path)
    refused(changed(path, lambda model: setattr(model.opset_import[0], "version", 999)), "operator set 999")


def test_damaged_and_other_files(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = small(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refused(path, "damaged").hint
    path.write_bytes(b"")
    refused(path, "holds no ONNX graph")
    broken = changed(path, lambda model: model.graph.initializer[0].dims.append(5))
    refused(broken, "'m.onnx'")
    missing = changed(path, lambda model: model.graph.node[0].input.__setitem__(1, "nowhere"))
    refused(missing, "not valid ONNX")


def test_each_byte_that_flips_gives_a_network_or_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = small(path).read_bytes()
    random = np.random.default_rng(0)
    taken, endings = 0, set()
    for place in random.integers(0, len(whole), 150):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(flipped))
        try:
            taken += convert(path, "m.onnx").architecture.num_classes > 1
        except IntakeError as error:
            endings.add(error.message[-1])
    assert 0 < taken < 150
    assert endings == {"."}


def test_inputs_that_are_not_images(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    identity = [make("Cast", ["x"], ["y"], to=1)]
    refused(graph_file(path, identity, {}, kind=TensorProto.UINT8), "takes uint8; expected float pixels")
    refused(graph_file(path, identity, {}, shape=(1, 784)), "has the shape 1x784")
    refused(small(path, shape=(1, "c", 8, 8)), "leaves its channels open")
    two = changed(path, lambda model: model.graph.input.append(helper.make_tensor_value_info("mask", 1, [1])))
    refused(two, "has 2 inputs ('x', 'mask')")


def test_an_open_size_is_asked_for_and_the_remedy_works(tmp_path: Path) -> None:
    nodes = [make("Conv", ["x", "w"], ["c"]), make("GlobalAveragePool", ["c"], ["p"]), make("Flatten", ["p"], ["y"])]
    path = graph_file(tmp_path / "model.onnx", nodes, {"w": weights(10, 3, 3, 3)}, shape=("n", 3, "h", "w_"))
    error = refused(path, "leaves the size of its images open (nx3xhxw_)")
    assert "`--size 224x224`" in error.hint  # the remedy, at another size
    converted = convert(path, "m.onnx", size=(20, 24))
    assert converted.architecture.input_shape == (3, 20, 24)
    agrees(path, converted)
    error = refused(small(path), "a height of 8 pixels, not 9", size=(9, 8))
    assert "Leave out `--size`" in error.hint
    agrees(path)


def test_several_outputs(tmp_path: Path) -> None:
    nodes, tensors = head("c", 4 * 6 * 6)
    nodes = [
        make("Conv", ["x", "w"], ["c"]),
        *nodes,
        make("Softmax", ["y"], ["p"]),
        make("ArgMax", ["y"], ["label"], axis=1),
    ]
    tensors = {"w": weights(4, 3, 3, 3), **tensors}
    path = tmp_path / "m.onnx"

    def written(**outputs: tuple[int, ...]) -> Path:
        return graph_file(path, nodes, tensors, outputs=outputs)

    error = refused(written(y=(1, 10), p=(1, 10)), "has 2 outputs ('y', 'p')")
    assert error.choices == ("y", "p")
    assert "`--output y`" in error.hint  # the remedy
    agrees(path, convert(path, "m.onnx", output="y"))
    assert convert(path, "m.onnx", output="0").architecture == convert(path, "m.onnx", output="y").architecture
    chosen = convert(path, "m.onnx", output="p", keep_softmax=True)
    assert [step.op for step in chosen.architecture.graph.steps][-1] == "softmax"
    assert convert(path, "m.onnx", output="p").architecture == convert(path, "m.onnx", output="y").architecture
    assert refused(path, "has no output 'q'; it has 'y', 'p'", output="q").choices == ("y", "p")
    refused(path, "has no output '2'", output="2")
    # Maps are no logits, and what the logits do not need is not read.
    maps = convert(written(c=(1, 4, 6, 6), y=(1, 10)), "m.onnx")
    assert "'y' was taken for the logits" in " ".join(maps.notes)


@pytest.mark.parametrize("form", ["linear", "convolution", "sigmoid", "sigmoid after a reshape"])
def test_one_logit_counts_as_two_classes(form: str, tmp_path: Path) -> None:
    """Its sigmoid, as onnxruntime gives it, is the probability of class 1 of two."""
    last = "y" if "sigmoid" not in form else "z"
    tensors = {"w": weights(4, 3, 3, 3), "v": weights(1, 4, 6, 6), "m": weights(4 * 36, 1), "flat": np.array([-1, 1])}
    nodes = [make("Conv", ["x", "w"], ["c"])]
    if form in ("linear", "sigmoid"):
        nodes += [make("Flatten", ["c"], ["f"]), make("MatMul", ["f", "m"], [last])]
    else:
        nodes += [make("Conv", ["c", "v"], ["r"]), make("Reshape", ["r", "flat"], [last])]
    if last == "z":
        nodes.append(make("Sigmoid", ["z"], ["y"]))
    path = graph_file(tmp_path / "m.onnx", nodes, tensors, outputs={"y": ("N", 1)})
    converted = convert(path, "m.onnx")
    assert converted.architecture.num_classes == 2
    assert "(0, z), so class 1 where z > 0" in " ".join(converted.notes)
    assert ("The sigmoid at the end of the network was left out" in " ".join(converted.notes)) == (last == "z")
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network_of(converted)(x)
    expected = onnxruntime_logits(path, x)[:, 0]
    assert (logits[:, 0] == 0).all()
    found = logits.softmax(1)[:, 1] if last == "z" else logits[:, 1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_logits_with_dimensions_of_one_are_flattened(tmp_path: Path) -> None:
    nodes = [make("Conv", ["x", "v"], ["y"])]
    path = graph_file(tmp_path / "m.onnx", nodes, {"v": weights(10, 3, 8, 8)}, outputs={"y": (1, 10, 1, 1)})
    assert agrees(path).architecture.num_classes == 10
    nodes = [make("Conv", ["x", "v"], ["c"]), make("Squeeze", ["c"], ["y"])]  # without the batch, too
    path = graph_file(tmp_path / "n.onnx", nodes, {"v": weights(10, 3, 8, 8)}, outputs={"y": (10,)})
    agrees(path)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    nodes = [make("Conv", ["x", "v"], ["c"]), make("Flatten", ["c"], ["y"])]
    half = weights(10, 3, 8, 8).astype("float16")
    path = graph_file(tmp_path / "m.onnx", nodes, {"v": half}, kind=TensorProto.FLOAT16)
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, path)
    torch.testing.assert_close(
        next(iter(convert(path, "m.onnx").tensors.values())), torch.tensor(half.astype("float32"))
    )


# Nothing runs, and nothing outside the file is looked at.


def active(folder: Path) -> dict[str, Path]:
    """Files with all that ONNX can point elsewhere with; the canary beside them must stay as it is."""
    secret = folder / "secret"
    secret.write_bytes(weights(4, 3, 3, 3).tobytes())

    def outside(model: onnx.ModelProto, place: str) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    def in_a_node(model: onnx.ModelProto) -> None:
        tensor = numpy_helper.from_array(weights(4, 3, 3, 3), "w2")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="secret")
        model.graph.node.insert(0, make("Constant", [], ["w2"], value=tensor))

    def described(model: onnx.ModelProto) -> None:
        for key in ("pkg.torch.onnx.name_scopes", "run", "__import__('os').system('touch canary')"):
            model.graph.node[0].metadata_props.add(key=key, value="['', __import__('os').system('touch canary'), 'a']")
            model.metadata_props.add(key=key, value="__import__('os').system('touch canary')")
        model.graph.node[0].name = "/../../canary/__import__('os').system('touch canary')/Conv"
        model.doc_string = "__import__('os').system('touch canary')"

    return {
        "refused, beside": changed(folder / "a.onnx", lambda model: outside(model, "secret")),
        "refused, above": changed(folder / "b.onnx", lambda model: outside(model, "../../../../etc/passwd")),
        "refused, absolute": changed(folder / "c.onnx", lambda model: outside(model, str(secret))),
        "refused, in a node": changed(folder / "d.onnx", in_a_node),
        "taken, described": changed(folder / "e.onnx", described),
    }


def test_nothing_runs_and_nothing_outside_is_followed(tmp_path: Path, settings: Settings) -> None:
    """Out of the sandbox, and in it."""
    files = active(tmp_path)
    for what, path in files.items():
        for name, read in (
            ("outside", lambda path=path: take_model(path, path.name, None, tmp_path / "stored")),
            ("sandbox", lambda path=path: read_model(path, path.name, None, tmp_path / "stored", settings)),
        ):
            if what.startswith("taken"):
                read()
                (tmp_path / "stored").unlink()
            else:
                with pytest.raises(IntakeError, match="in another file"):
                    read()
            assert not (tmp_path / "stored").exists(), (what, name)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "secret",
        *(path.name for path in files.values()),
    }


def test_the_sandbox_gives_the_same_network(tmp_path: Path, settings: Settings) -> None:
    path = small(tmp_path / "m.onnx")
    manifest = read_model(path, "m.onnx", None, tmp_path / "stored", settings)
    converted = convert(path, "m.onnx")
    assert Onnx.model_validate(manifest["architecture"]) == converted.architecture
    assert manifest["format"] == "ONNX"
    assert manifest["notes"] == list(converted.notes)


def test_which_files_are_taken_for_onnx(tmp_path: Path) -> None:
    nothing = Path("nothing")
    file = small(tmp_path / "m.onnx").read_bytes()[:1024]
    assert recognizes(nothing, "renamed.bin", file)
    exported = export(
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(32, 2)).eval(), tmp_path / "e.onnx", "older", 4
    )
    assert recognizes(nothing, "renamed.bin", exported.read_bytes()[:1024])
    assert recognizes(nothing, "model.onnx", b"\xff\xfe\xfd\x00\x01")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    assert not recognizes(nothing, "model.onnx", (tmp_path / "a.pt").read_bytes()[:1024])
    assert not recognizes(nothing, "model.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


def test_without_the_package_the_error_names_the_extra(tmp_path: Path) -> None:
    path = small(tmp_path / "m.onnx")
    program = dedent(
        """
        import sys
        from pathlib import Path
        sys.modules["onnx"] = None
        from auditor.data.intake.weights import take_model
        try:
            take_model(Path(sys.argv[1]), "m.onnx", None, Path(sys.argv[2]))
        except Exception as error:
            print(type(error).__name__, error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "stored"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    assert done.stdout.strip() == (
        "ServiceError Reading ONNX files needs the onnx package. Install it: pip install 'neuron-auditor[onnx]'."
    )
