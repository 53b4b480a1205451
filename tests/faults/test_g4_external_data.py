"""External tensor files of a graph are read when it is packed and sealed with it, and no other file is ever opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import roadworthy as rw
from bench.redteam.archives import put_together, seal, take_apart
from roadworthy.foundation.errors import PackageInvalid, PackError
from roadworthy.package.archive import open_package, unpack
from roadworthy.package.construct import construct
from roadworthy.package.package import Package
from roadworthy.package.prove import prove
from tests.waiting import DEADLINE_S

ROWS = np.random.default_rng(1).random((40, 3)).astype(np.float32)
WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)
NATIVE = Path("runtimes/native")


def written(folder: Path, external: str = "weights.bin") -> Path:
    """y = x @ weights, with the weights in a file next to the graph."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Mul", ["m", "k"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(np.full(2, 0.5, np.float32), "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "big.onnx", save_as_external_data=True, location=external, size_threshold=0)
    return folder / "big.onnx"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package made from the graph's path."""
    folder = tmp_path_factory.mktemp("user")
    return rw.pack(written(folder / "made"), name="external", inputs=ROWS, out=folder / "dist", examples=8)


def test_g14_a_graph_with_external_tensors_is_packed_and_served(package: Package, tmp_path: Path) -> None:
    """Both files are in the package, it is data, and it answers wherever it is loaded, whatever other files exist there."""
    names = [Path(entry.path).name for entry in package.manifest.files if entry.path.startswith(str(NATIVE))]
    assert names == ["model.onnx", "weights.bin"]
    assert not package.carries_code
    constructed = construct(unpack(package.path, tmp_path / "unpacked"))
    assert prove(constructed).rows == 8
    inputs, _ = package.golden()
    np.testing.assert_allclose(constructed.run(inputs).column("y")[0], inputs.blocks[0].values @ WEIGHTS * 0.5, rtol=1e-6)


def test_g14_a_missing_file_is_named_with_the_line_that_writes_it(tmp_path: Path) -> None:
    """The same holds for a ModelProto, which has no folder."""
    path = written(tmp_path / "made")
    proto = onnx.load(path, load_external_data=False)
    (path.parent / "weights.bin").unlink()
    with pytest.raises(PackError, match=r"'weights.bin', which is not in the graph's folder") as caught:
        rw.pack(path, name="external", inputs=ROWS, out=tmp_path)
    assert "onnx.save(onnx.load(path)" in str(caught.value.hint)
    with pytest.raises(PackError, match=r"lie in the file 'weights.bin', which a ModelProto does not find") as caught:
        rw.pack(proto, name="external", inputs=ROWS, out=tmp_path)
    assert "give the path" in str(caught.value.hint)


def says(**place: str) -> Callable[[Any, Path], None]:
    """The graph places its first tensor elsewhere."""

    def change(graph: Any, _folder: Path) -> None:
        for entry in graph.graph.initializer[0].external_data:
            entry.value = place.get(entry.key, entry.value)

    return change


def tag(graph: Any, _folder: Path) -> None:
    """ONNX Runtime's own tag for an address in memory."""
    says(location="*/_ORT_MEM_ADDR_/*", offset="4096")(graph, _folder)


def in_a_node(graph: Any, _folder: Path) -> None:
    """A constant's value in a file."""
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHTS, "c"))
    constant.attribute[0].t.CopyFrom(graph.graph.initializer[0])
    graph.graph.node.insert(0, constant)


def in_a_branch(graph: Any, _folder: Path) -> None:
    """A tensor of an inner graph in a file."""
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    inner = helper.make_graph([helper.make_node("Identity", ["w2"], ["z"])], "inner", [], [out])
    tensor = inner.initializer.add()
    tensor.CopyFrom(graph.graph.initializer[0])
    tensor.name = "w2"
    yes = numpy_helper.from_array(np.array(True), "yes")
    graph.graph.initializer.append(yes)
    graph.graph.node.append(helper.make_node("If", ["yes"], ["c"], then_branch=inner, else_branch=inner))


def twice(graph: Any, _folder: Path) -> None:
    """Two locations for one tensor."""
    entry = graph.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"


def unmarked(graph: Any, _folder: Path) -> None:
    """A location, without being marked as external."""
    graph.graph.initializer[0].data_location = TensorProto.DEFAULT


def nowhere(graph: Any, _folder: Path) -> None:
    """Marked as external, without a location."""
    del graph.graph.initializer[0].external_data[:]


def cut(_graph: Any, folder: Path) -> None:
    """The file is too short."""
    file = folder / NATIVE / "weights.bin"
    file.write_bytes(file.read_bytes()[:10])


def more(_graph: Any, folder: Path) -> None:
    """A file without a tensor."""
    (folder / NATIVE / "more.bin").write_bytes(b"more")


def gone(_graph: Any, folder: Path) -> None:
    """The file is not in the package."""
    (folder / NATIVE / "weights.bin").unlink()


def of_no_type(graph: Any, _folder: Path) -> None:
    """Text cannot be external."""
    graph.graph.initializer[0].data_type = TensorProto.STRING


def large(graph: Any, _folder: Path) -> None:
    """More values than the file has."""
    graph.graph.initializer[0].dims[0] = 1 << 40


FORGED: dict[str, Callable[[Any, Path], None]] = {
    "absolute": says(location="/etc/hostname"),
    "above": says(location="../../golden/inputs.arrow"),
    "another part of the package": says(location="../../card.json"),
    "below": says(location="more/weights.bin"),
    "of the system": says(location="/proc/self/environ", length="24"),
    "a name that is not there": says(location="else.bin"),
    "no name": says(location=""),
    "here": says(location="."),
    "backslash": says(location="..\\weights.bin"),
    "zero byte": says(location="weights.bin\0"),
    "memory": tag,
    "beyond the end": says(offset="1000000"),
    "before the beginning": says(offset="-8"),
    "another length": says(length="8"),
    "no number": says(offset="0x0"),
    "in a node": in_a_node,
    "in a branch": in_a_branch,
    "twice": twice,
    "unmarked": unmarked,
    "nowhere": nowhere,
    "cut": cut,
    "more": more,
    "gone": gone,
    "no type": of_no_type,
    "large": large,
}


@pytest.mark.parametrize("name", FORGED)
def test_g4_no_other_file_is_read(name: str, package: Package, tmp_path: Path) -> None:
    """A package with right hashes is refused when it is opened, as a file and as a folder."""
    folder = tmp_path / "forged"
    manifest = take_apart(package.path, folder)
    graph = onnx.load(folder / NATIVE / "model.onnx", load_external_data=False)
    FORGED[name](graph, folder)
    (folder / NATIVE / "model.onnx").write_bytes(graph.SerializeToString())
    seal(folder, manifest)
    for path in (folder, put_together(folder, tmp_path / "forged.rw")):
        with pytest.raises(PackageInvalid) as caught:
            open_package(path)
        assert caught.value.code == "manifest-invalid"


def test_g4_what_lies_in_the_working_folder_is_not_read(package: Package, tmp_path: Path) -> None:
    """A file of the same name in the working folder does not change answers, and is not opened."""
    folder = unpack(package.path, tmp_path / "unpacked").path
    (tmp_path / "weights.bin").write_bytes(np.zeros(100, np.float32).tobytes())
    code = """
import json, sys
from pathlib import Path
from roadworthy.package.archive import open_package
from roadworthy.package.construct import construct
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
constructed = construct(open_package(Path(sys.argv[1])))
inputs, _ = constructed.package.golden()
print(json.dumps([constructed.run(inputs).column("y")[0].tolist(), [name for name in opened if name.endswith("weights.bin")]]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    answers, opened = json.loads(done.stdout)
    np.testing.assert_allclose(answers, package.golden()[0].blocks[0].values @ WEIGHTS * 0.5, rtol=1e-6)
    assert {os.path.dirname(name) for name in opened} == {str(folder / NATIVE)}  # noqa: PTH120


def test_g4_a_file_that_changes_after_it_was_opened_is_refused(package: Package, tmp_path: Path) -> None:
    """ONNX Runtime gets the sealed tensors only."""
    opened = unpack(package.path, tmp_path / "unpacked")
    file = opened.path / NATIVE / "weights.bin"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(PackageInvalid) as caught:
        construct(opened)
    assert caught.value.code == "package-damaged"
