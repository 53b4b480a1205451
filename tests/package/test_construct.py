"""Describe, audit, construct: which packages may run, and the hints of refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadworthy.foundation.errors import PackageInvalid, PackageRefused
from roadworthy.package.archive import unpack
from roadworthy.package.construct import construct
from roadworthy.package.manifest import Manifest, Requirement
from roadworthy.package.package import Package
from roadworthy.package.prove import prove
from roadworthy.package.requirements import python_minor

Unpacked = Callable[[Package], Package]


def refusal(package: Package, **how: Any) -> PackageRefused:
    """The refusal to construct a package."""
    with pytest.raises(PackageRefused) as refused:
        construct(package, **how)
    assert refused.value.hint
    return refused.value


def test_code_runs_only_when_its_digest_is_allowed(compiled_package: Package, unpacked: Unpacked) -> None:
    """The refusal names the exact option; another digest allows nothing."""
    package = unpacked(compiled_package)
    for allowed in ([], ["sha256:" + "0" * 64]):
        error = refusal(package, runtime="native", allow_code=allowed)
        assert error.code == "code-not-allowed"
        assert f"--allow-code {package.digest}" in str(error.hint)
        assert error.facts == {"digest": package.digest}
    assert prove(construct(package, runtime="native", allow_code=[package.digest])).rows == 16


def test_a_refused_package_was_not_read(compiled_package: Package, tmp_path: Path, sealed: Any) -> None:
    """Code that is not allowed does not run: a pickle that would leave a mark when read leaves none."""
    mark = tmp_path / "mark"
    package = unpack(compiled_package.path, tmp_path / "evil")
    payload = f"cpathlib\nPath\n(S{str(mark)!r}\ntR(dS'x'\nNsb0cpathlib\nPath.touch\n(cpathlib\nPath\n(S{str(mark)!r}\ntRtR."
    (package.path / package.manifest.runtimes[0].folder / "model.pkl").write_bytes(payload.encode())
    package = sealed(package.path)
    assert refusal(package, runtime="native").code == "code-not-allowed"
    assert prove(construct(package)).rows == 16  # the graph that serves needs no code
    assert not mark.exists()
    with pytest.raises(PackageRefused):
        construct(package, runtime="native", allow_code=[package.digest])


def test_another_python_is_refused(compiled_package: Package, unpacked: Unpacked, sealed: Any) -> None:
    """A pickle of another minor version of Python is refused; the graph in the same package is not."""
    folder = unpacked(compiled_package).path
    package = sealed(folder, lambda manifest: dataclasses.replace(manifest, python="3.99"))
    error = refusal(package, runtime="native", allow_code=[package.digest])
    assert error.code == "python-mismatch"
    assert error.facts == {"expected": "3.99", "found": python_minor()}
    assert "Python 3.99" in str(error.hint)
    assert prove(construct(package)).runtime == package.serving.name


def other_versions(manifest: Manifest) -> Manifest:
    """The same package, made with a scikit-learn version that is not installed."""
    locked = [Requirement(r.name, "0.1.7" if r.name == "scikit-learn" else r.version) for r in manifest.requirements]
    return dataclasses.replace(manifest, requirements=tuple(locked))


def test_other_libraries_are_refused_with_the_line_that_installs_them(
    compiled_package: Package, unpacked: Unpacked, sealed: Any
) -> None:
    """The locked version, the installed version, and the pip command."""
    package = sealed(unpacked(compiled_package).path, other_versions)
    error = refusal(package, runtime="native", allow_code=[package.digest])
    assert error.code == "requirement-mismatch"
    assert "scikit-learn 0.1.7" in error.message
    assert error.hint == "pip install scikit-learn==0.1.7"
    assert prove(construct(package)).rows == 16


def test_a_missing_library_is_named(graph_package: Package, unpacked: Unpacked, sealed: Any) -> None:
    """A graph accepts any version of its library, but needs one."""

    def change(manifest: Manifest) -> Manifest:
        entry = dataclasses.replace(manifest.runtimes[0], requirements=("no-such-thing",))
        return dataclasses.replace(manifest, runtimes=(entry,), requirements=(Requirement("no-such-thing", "4.2"),))

    error = refusal(sealed(unpacked(graph_package).path, change))
    assert error.code == "requirement-missing"
    assert error.hint == "pip install no-such-thing==4.2"


def test_an_unknown_runtime_is_answered_with_the_known_ones(compiled_package: Package, unpacked: Unpacked) -> None:
    """A mistyped runtime name."""
    error = refusal(unpacked(compiled_package), runtime="onyx")
    assert error.code == "unknown-runtime"
    assert all(name in str(error.hint) for name in compiled_package.runtimes)


def test_a_packed_file_is_not_constructed(graph_package: Package) -> None:
    """Runtimes read files, so a package must be unpacked first."""
    assert refusal(graph_package).code == "not-unpacked"


@pytest.mark.parametrize("file", ["../../card.json", "/dev/zero", "missing.onnx", ".."])
def test_options_do_not_lead_out_of_the_package(file: str, graph_package: Package, unpacked: Unpacked, sealed: Any) -> None:
    """A sealed option may name any file, but only the runtime's own files are read."""

    def change(manifest: Manifest) -> Manifest:
        return dataclasses.replace(manifest, runtimes=(dataclasses.replace(manifest.runtimes[0], options={"file": file}),))

    folder = unpacked(graph_package).path
    with pytest.raises(PackageInvalid) as refused:
        sealed(folder, change)
    assert refused.value.code == "manifest-invalid"


def test_a_graph_that_is_no_graph_is_refused(graph_package: Package, unpacked: Unpacked, sealed: Any) -> None:
    """Right hashes, wrong bytes: refused at opening, without an exception of the runtime's library."""
    folder = unpacked(graph_package).path
    (folder / "runtimes" / "native" / "model.onnx").write_bytes(b"\x08\x07garbage")
    with pytest.raises(PackageInvalid) as refused:
        sealed(folder)
    assert refused.value.code == "manifest-invalid"


def test_a_compiled_package_needs_no_scikit_learn(
    compiled_package: Package, unpacked: Unpacked, python: Callable[..., str]
) -> None:
    """Without scikit-learn, the kept graph constructs and proves, without permission for code."""
    assert not compiled_package.carries_code
    code = """
import sys
for blocked in ("sklearn", "scipy", "joblib", "cloudpickle", "pandas", "onnx", "skl2onnx"):
    sys.modules[blocked] = None
from pathlib import Path
from roadworthy.package.archive import open_package
from roadworthy.package.construct import construct
from roadworthy.package.prove import prove
constructed = construct(open_package(Path(sys.argv[1])))
print(constructed.runtime, constructed.concurrent, prove(constructed).rows)
"""
    said = python(code, str(unpacked(compiled_package).path)).split()
    assert said == [compiled_package.serving.name, "True", "16"]


def test_a_closed_model_says_so(graph_package: Package, unpacked: Unpacked) -> None:
    """Running a closed model is a clear error."""
    constructed = construct(unpacked(graph_package))
    inputs, _ = constructed.package.golden()
    assert np.isfinite(constructed.run(inputs).column("y")[0]).all()
    constructed.close()
    with pytest.raises(PackageRefused) as refused:
        constructed.run(inputs)
    assert refused.value.code == "model-closed"
