"""Packages of every format that was ever released stay readable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roadworthy.package.archive import open_package, pack_file, unpack
from roadworthy.package.construct import construct
from roadworthy.package.manifest import FORMAT, FORMAT_AT_ONCE
from roadworthy.package.model import Model
from roadworthy.package.prove import prove

HERE = Path(__file__).parent
KEPT = sorted(HERE.glob("format-*.rw"))
AT_ONCE = KEPT[:FORMAT_AT_ONCE]


def test_every_format_has_its_package() -> None:
    """Raising FORMAT without a kept package fails here."""
    assert [path.name for path in KEPT] == [f"format-{number}.rw" for number in range(1, FORMAT + 1)]
    assert all(path.stat().st_size < 20_000 for path in KEPT)


@pytest.mark.parametrize("kept", AT_ONCE, ids=lambda path: path.stem)
def test_a_kept_package_opens_constructs_and_proves(kept: Path, tmp_path: Path) -> None:
    """Its golden examples give the same answers as when it was packed."""
    package = unpack(kept, tmp_path / "kept")
    assert package.name == "kept"
    constructed = construct(package)
    assert prove(constructed).rows == 8
    with Model(constructed) as model:
        answer = model.predict(np.array([[1, 1, 1]], dtype=np.float32))
    assert {name: values.ravel().tolist() for name, values in answer.items()} == {"y": [6.5]}


def test_a_kept_package_of_parts_opens() -> None:
    """It has all parts of its examples. Its code is that of one Python, so it is not executed."""
    package = open_package(HERE / "format-4.rw")
    assert (package.manifest.format, package.signature.parts) == (4, True)
    examples = package.examples()
    assert len(examples) == 8
    for given, said in examples:
        assert said.blocks[0].values[:, 0].tolist() == given.blocks[0].values[0].tolist()


def test_the_digest_of_format_1_never_changes() -> None:
    """The digest depends on the canonical form of the manifest: a change would lose every registered version."""
    package = open_package(HERE / "format-1.rw")
    assert package.digest == "sha256:988218f3e6ee2a2f2c2733692f3e058868b021cda39c31ab77e96b97439e2feb"


def test_the_packed_form_of_format_1_is_written_as_it_was(tmp_path: Path) -> None:
    """Unpacking and packing a kept package gives the same file, byte for byte."""
    unpack(HERE / "format-1.rw", tmp_path / "kept")
    again = pack_file(tmp_path / "kept", tmp_path / "again.rw")
    assert again.path.read_bytes() == (HERE / "format-1.rw").read_bytes()
