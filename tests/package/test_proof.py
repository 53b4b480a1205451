"""Proof before traffic: three typical errors are planted, and each is caught with its first difference."""

from __future__ import annotations

import dataclasses
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadworthy.foundation.errors import PackageRefused, PackError, ProofFailed
from roadworthy.package.archive import open_package, unpack
from roadworthy.package.construct import construct
from roadworthy.package.package import Package
from roadworthy.package.packing.pack import pack
from roadworthy.package.prove import prove
from roadworthy.package.replay import Replay, replay_isolated

ROWS = np.random.default_rng(3).random((40, 2)) * 100


def clean(rows: Any) -> Any:
    """The preprocessing that a user may forget."""
    return (rows - 50.0) / 10.0


def model(rows: Any) -> Any:
    """Trained on clean rows."""
    return np.where(rows.sum(axis=1) > 0, "late", "on time")


def test_preprocessing_left_behind_is_caught_by_the_answers_of_training(tmp_path: Path) -> None:
    """The model accepts raw rows and answers wrongly: only the answers of training reveal it."""
    seen = model(clean(ROWS))
    with pytest.raises(ProofFailed) as refused:
        pack(model, name="late", inputs=ROWS, outputs=seen, out=tmp_path, compile=False)
    error = refused.value
    first = int(np.flatnonzero(model(ROWS) != seen)[0])
    assert error.code == "training-outputs-differ"
    assert (error.facts["row"], error.facts["field"]) == (first, "prediction")
    assert f"row {first}" in error.message
    assert "expected 'on time', got 'late'" in error.message
    assert "preprocess=" in str(error.hint)
    assert not list(tmp_path.iterdir())
    package = pack(model, name="late", inputs=ROWS, outputs=seen, preprocess=clean, out=tmp_path, compile=False)
    assert open_package(package.path).digest == package.digest


def test_a_module_left_behind_is_found_by_the_replay(tmp_path: Path, own_module: Callable[[str, str], Any]) -> None:
    """A function that imports a module of the project when it runs works only inside the project."""
    own_module("left_behind", "def scale(rows):\n    return rows[:, 0] * 2\n")
    mine = own_module("my_model", "def predict(rows):\n    import left_behind\n    return left_behind.scale(rows)\n")
    with pytest.raises((ProofFailed, PackError)) as refused:
        pack(mine.predict, name="late", inputs=ROWS, out=tmp_path / "dist", compile=False)
    assert refused.value.code in ("model-failed-on-golden", "lost-outside-project")
    assert "ModuleNotFoundError" in refused.value.message or "left_behind" in refused.value.message
    assert refused.value.hint
    assert not (tmp_path / "dist").exists()


def test_a_file_left_behind_is_found_by_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that reads a file in the current folder is not packed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.txt").write_text("2.5")
    with pytest.raises(ProofFailed) as refused:
        pack(lambda rows: rows[:, 0] * float(Path("weights.txt").read_text()), name="late", inputs=ROWS, compile=False)
    assert refused.value.code == "model-failed-on-golden"


LIBRARY = "def round_up(values):\n    import numpy as np\n    return np.{how}(values)\n"
PACK = """
import sys, numpy as np, planted_rounding, roadworthy as rw
def model(rows):
    return planted_rounding.round_up(rows[:, 0])
package = rw.pack(model, name="rounding", inputs=np.linspace(0, 9, 60).reshape(30, 2), out=sys.argv[1], compile=False)
print(package.path)
"""
LOAD = """
import sys, roadworthy as rw
from roadworthy.package.archive import open_package
from pathlib import Path
try:
    rw.load(sys.argv[1], allow_code=open_package(Path(sys.argv[1])).digest)
except rw.RoadworthyError as error:
    print(error.code, error.message, error.hint, sep="|")
else:
    print("proved")
"""


def make_environment(folder: Path) -> tuple[str, Path]:
    """An environment that also has all libraries installed here; returns its Python and its folder for libraries."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return str(folder / "bin" / "python"), site


def install(site: Path, version: str, how: str) -> None:
    """Install a version of the planted library."""
    for old in site.glob("planted_rounding-*"):
        (old / "METADATA").unlink()
        (old / "top_level.txt").unlink()
        old.rmdir()
    (site / "planted_rounding.py").write_text(LIBRARY.format(how=how))
    info = site / f"planted_rounding-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: planted-rounding\nVersion: {version}\n")
    (info / "top_level.txt").write_text("planted_rounding\n")


def test_a_library_whose_version_changes_results_is_caught(tmp_path: Path, python: Callable[..., str]) -> None:
    """The golden examples catch a patch release that rounds differently; a minor release is caught by its number."""
    interpreter, site = make_environment(tmp_path / "environment")
    home = {"ROADWORTHY_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    install(site, "1.2.0", "ceil")
    packed = python(PACK, str(tmp_path / "dist"), python=interpreter, **home).strip()
    manifest = open_package(Path(packed)).manifest
    assert "planted-rounding==1.2.0" in [str(requirement) for requirement in manifest.requirements]
    assert python(LOAD, packed, python=interpreter, **home).strip() == "proved"

    install(site, "1.2.1", "floor")
    code, message, hint = python(LOAD, packed, python=interpreter, **home).strip().split("|")
    assert code == "proof-failed"
    assert "output 'prediction', row 1: expected 1.0, got 0.0" in message
    assert "different version" in hint

    install(site, "1.3.0", "floor")
    code, message, hint = python(LOAD, packed, python=interpreter, **home).strip().split("|")
    assert code == "requirement-mismatch"
    assert "installed: 1.3.0" in message
    assert hint == "pip install planted-rounding==1.2.0"


def test_a_broken_conversion_is_caught(compiled_package: Package, tmp_path: Path, sealed: Any) -> None:
    """A compiled graph with one changed constant, sealed again with right hashes, gives different answers."""
    import onnx
    from onnx import numpy_helper

    package = unpack(compiled_package.path, tmp_path / "broken")
    entry = package.serving
    assert entry.framework == "onnx"
    file = package.path / entry.folder / str(entry.options["file"])
    graph = onnx.load(file)
    floats = [t for t in graph.graph.initializer if t.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)]
    for tensor in floats:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.5, tensor.name))
    assert floats
    onnx.save(graph, file)
    broken = sealed(package.path)
    assert broken.digest != package.digest
    with pytest.raises(ProofFailed) as refused:
        prove(construct(broken))
    error = refused.value
    assert error.code == "proof-failed"
    assert error.facts["runtime"] == entry.name
    assert error.facts["field"] in [field.name for field in package.signature.outputs]
    assert f"row {error.facts['row']}" in error.message
    with pytest.raises(ProofFailed):
        replay_isolated(broken.path, Replay(every_runtime=False, allow_code=False))


def test_the_first_row_is_also_asked_alone(tmp_path: Path) -> None:
    """A model whose answer depends on the other rows is refused at pack time."""
    with pytest.raises((PackError, ProofFailed)) as refused:
        pack(lambda rows: rows[:, 0] - rows[:, 0].mean(), name="late", inputs=ROWS, out=tmp_path, compile=False)
    assert refused.value.code in ("not-deterministic", "proof-failed", "training-outputs-differ")


def test_a_whole_package_is_proved_on_every_runtime(compiled_package: Package, tmp_path: Path) -> None:
    """All golden examples on each runtime, in a process without inherited environment."""
    folder = unpack(compiled_package.path, tmp_path / "whole").path
    proofs = replay_isolated(folder, Replay(bare=True))
    assert [proof["runtime"] for proof in proofs] == list(compiled_package.runtimes)
    assert {proof["rows"] for proof in proofs} == {16}


def test_a_process_that_dies_is_no_proof(graph_package: Package, tmp_path: Path) -> None:
    """A replay that takes too long fails; one that may not run code is refused."""
    folder = unpack(graph_package.path, tmp_path / "whole").path
    with pytest.raises(ProofFailed) as refused:
        replay_isolated(folder, Replay(timeout_s=0.001))
    assert refused.value.code == "replay-failed"
    package = pack(model, name="late", inputs=ROWS, out=tmp_path / "dist", compile=False)
    native = unpack(package.path, tmp_path / "native").path
    with pytest.raises(PackageRefused) as not_allowed:
        replay_isolated(native, Replay(every_runtime=False, allow_code=False))
    assert not_allowed.value.code == "code-not-allowed"


def test_golden_answers_that_were_changed_do_not_prove(graph_package: Package, tmp_path: Path, sealed: Any) -> None:
    """Wrong golden examples are an error, too."""
    from roadworthy.package.golden import write_golden
    from roadworthy.schema.batch import Batch, Block

    package = unpack(graph_package.path, tmp_path / "changed")
    inputs, outputs = package.golden()
    write_golden(package.path, inputs, Batch(outputs.layout, outputs.rows, (Block(outputs.blocks[0].values + 1),)))
    changed = sealed(package.path, lambda manifest: dataclasses.replace(manifest, name="changed"))
    with pytest.raises(ProofFailed) as refused:
        prove(construct(changed))
    assert refused.value.facts["rows_differing"] == 8
