"""What an author may seal: right hashes do not make the contents right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from roadworthy.foundation.errors import PackageInvalid
from roadworthy.package.golden import INPUTS, OUTPUTS, write_golden
from roadworthy.package.package import CARD, PROFILE, Package

Unpacked = Callable[[Package], Package]
Sealed = Callable[..., Package]


@pytest.mark.parametrize("rows", [0, 7])
def test_golden_examples_without_an_answer_each_are_refused(
    graph_package: Package, unpacked: Unpacked, sealed: Sealed, rows: int
) -> None:
    """A proof over none would prove nothing."""
    inputs, outputs = graph_package.golden()
    folder = unpacked(graph_package).path
    for name in (INPUTS, OUTPUTS):
        (folder / name).chmod(0o600)
    write_golden(folder, inputs.slice(0, 8 if rows else 0), outputs.slice(0, rows))
    package = sealed(folder)
    with pytest.raises(PackageInvalid, match=f"and {rows} answers") as refused:
        package.golden()
    assert refused.value.code == "golden-invalid"


@pytest.mark.parametrize("name", [CARD, PROFILE])
@pytest.mark.parametrize("content", [b"[]", b"{", b"[" * 100_000], ids=["list", "half", "deep"])
def test_a_description_that_is_not_an_object_is_refused(
    graph_package: Package, unpacked: Unpacked, sealed: Sealed, name: str, content: bytes
) -> None:
    """The error names the file."""
    folder = unpacked(graph_package).path
    (folder / name).chmod(0o600)
    (folder / name).write_bytes(content)
    package = sealed(folder)
    with pytest.raises(PackageInvalid, match=name) as refused:
        _ = package.card if name == CARD else package.profile
    assert refused.value.code == "package-damaged"
