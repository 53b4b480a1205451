"""Reading a package, card included, imports and runs nothing from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadworthy.package.archive import open_package
from roadworthy.package.attestations import COMPILE, write_attestation
from roadworthy.package.card import render_card
from roadworthy.package.package import Package

HEAVY = {"sklearn", "scipy", "pandas", "polars", "onnx", "onnxruntime", "joblib"}


def test_describing_imports_nothing_heavy(compiled_package: Package, python: Callable[..., str]) -> None:
    """Reading manifest, card, profile and golden examples imports no framework."""
    code = """
import sys
from pathlib import Path
from roadworthy.package.archive import open_package
from roadworthy.package.card import render_card
package = open_package(Path(sys.argv[1]))
assert package.golden()[0].rows and package.profile["rows"]
assert package.digest in render_card(package)
print(*{name.partition(".")[0] for name in sys.modules})
"""
    assert set(python(code, str(compiled_package.path)).split()) & HEAVY == set()


def test_the_card_says_what_was_found_out(compiled_package: Package) -> None:
    """The author's text, every column with its range, the answers, the serving runtime and its proof, versions."""
    card = render_card(compiled_package)
    assert "## About\n\nFour columns." in card
    for field in compiled_package.signature.inputs:
        assert f"| {field.name} | float64 | no | {field.minimum} to {field.maximum} |" in card
    assert f"`{compiled_package.runtimes[0]}` serves." in card
    assert "times the speed of the original" in card
    assert "16 golden" in card
    assert "searched" in card
    assert all(f"- {requirement}" in card for requirement in compiled_package.manifest.requirements)


def test_the_card_of_a_package_without_other_runtimes(graph_package: Package) -> None:
    """The card says that no other runtime was tried."""
    assert "No other runtime was tried." in render_card(graph_package)


@pytest.mark.parametrize("said", [{"outcomes": 7}, {"outcomes": [{}]}, {"outcomes": [None]}, {"outcomes": [{"kept": 1}]}])
def test_nonsense_in_attestations_harms_no_card(
    said: dict[str, Any], graph_package: Package, unpacked: Callable[[Package], Package]
) -> None:
    """The digest does not cover attestations, so they may contain anything."""
    folder = unpacked(graph_package).path
    write_attestation(folder, COMPILE, graph_package.digest, said)
    assert "cannot be read" in render_card(open_package(folder))


@pytest.mark.parametrize("prefer", [7, {"a": 1}, [["x"]], ["nothing", "native"], []])
def test_nonsense_in_preferences_leaves_the_native_runtime(
    prefer: Any, graph_package: Package, unpacked: Callable[[Package], Package]
) -> None:
    """A preference for an unknown runtime is ignored; only sealed runtimes serve."""
    folder = unpacked(graph_package).path
    write_attestation(folder, COMPILE, graph_package.digest, {"prefer": prefer})
    assert open_package(folder).runtimes == ("native",)


def test_a_preference_chooses_among_the_sealed_runtimes(
    compiled_package: Package, unpacked: Callable[[Package], Package]
) -> None:
    """A changed attestation can only choose a runtime that the digest covers, and code still needs permission."""
    folder = unpacked(compiled_package).path
    write_attestation(folder, COMPILE, compiled_package.digest, {"prefer": ["native"]})
    package = open_package(folder)
    assert package.digest == compiled_package.digest
    assert package.runtimes[0] == "native"
    assert package.carries_code


def test_an_attestation_about_another_package_is_refused(graph_package: Package, unpacked: Callable[[Package], Package]) -> None:
    """An attestation names the digest of its package."""
    from roadworthy.foundation.errors import PackageInvalid

    folder: Path = unpacked(graph_package).path
    (folder / "attestations" / "more.json").write_text(json.dumps({"digest": "sha256:" + "1" * 64}))
    with pytest.raises(PackageInvalid) as refused:
        open_package(folder)
    assert refused.value.code == "attestation-invalid"
