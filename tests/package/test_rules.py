"""Rules are part of the package, are proved with it, and run only if its digest is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadworthy.foundation.errors import PackageInvalid, PackageRefused, PackError, ProofFailed
from roadworthy.package.archive import unpack
from roadworthy.package.construct import construct
from roadworthy.package.manifest import Manifest, RuleEntry, read_manifest
from roadworthy.package.package import Package
from roadworthy.package.packing.pack import pack
from roadworthy.package.rules import load_rule, prove_rules


def flat(rows: Any) -> Any:
    """The mean of training, for any row."""
    return np.full((len(rows), 1), 1.5, dtype=np.float32)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, numbers: Any, linear: Callable[[float], Any]) -> Package:
    """A graph with a rule, unpacked."""
    folder = tmp_path_factory.mktemp("rules")
    packed = pack(linear(0.5), name="ruled", inputs=numbers, out=folder, examples=8, rules={"flat": flat})
    return unpack(packed.path, folder / "unpacked")


def test_a_rule_answers_from_the_package(package: Package) -> None:
    """By value: it does not need the project where it was written. The graph itself still needs no permission."""
    assert package.rules == ("flat",)
    rule = load_rule(package, "flat", allow_code=(package.digest,))
    inputs, _ = package.golden()
    assert rule.run(inputs).blocks[0].values.ravel().tolist() == [1.5] * 8
    with pytest.raises(PackageRefused) as missing:
        load_rule(package, "steep", allow_code=(package.digest,))
    assert missing.value.code == "rule-missing"
    construct(package).close()


def test_a_rule_is_code(package: Package) -> None:
    """It does not run unless the digest is allowed, which pushing requires, too."""
    assert package.carries_code
    with pytest.raises(PackageRefused) as refused:
        load_rule(package, "flat", allow_code=())
    assert refused.value.code == "code-not-allowed"


def test_rules_are_under_the_digest(package: Package) -> None:
    """The manifest lists them, and reads back the same; a manifest that lists a rule twice is refused."""
    manifest = package.manifest
    assert read_manifest(manifest.encode()) == manifest
    twice = Manifest(**{**_fields(manifest), "rules": (manifest.rules[0], manifest.rules[0])})
    with pytest.raises(PackageInvalid):
        read_manifest(twice.encode())
    unsafe = Manifest(**{**_fields(manifest), "rules": (RuleEntry("flat", "../code", {}, ()),)})
    with pytest.raises(PackageInvalid):
        read_manifest(unsafe.encode())


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__slots__}


def broken(rows: Any) -> Any:
    """Raises."""
    raise ValueError(len(rows))


def short(rows: Any) -> Any:
    """One row too few."""
    return flat(rows)[1:]


def endless(rows: Any) -> Any:
    """Not finite."""
    return flat(rows) * np.inf


@pytest.mark.parametrize("rule", [broken, short, endless])
def test_a_rule_that_fails_on_the_golden_examples_is_not_packed(
    rule: Any, tmp_path: Path, numbers: Any, linear: Callable[[float], Any]
) -> None:
    """It is run before the file is written."""
    with pytest.raises(ProofFailed) as failed:
        pack(linear(0.5), name="ruled", inputs=numbers, out=tmp_path, examples=8, rules={"bad": rule})
    assert (failed.value.code, failed.value.facts["rule"]) == ("rule-failed-on-golden", "bad")
    assert list(tmp_path.iterdir()) == []


def test_names_are_checked(tmp_path: Path, numbers: Any, linear: Callable[[float], Any]) -> None:
    """Names become folders and header values."""
    for name in ("Flat", "../flat", "", 'a"b'):
        with pytest.raises(PackError) as refused:
            pack(linear(0.5), name="ruled", inputs=numbers, out=tmp_path, examples=8, rules={name: flat})
        assert refused.value.code == "invalid-rule"


def test_all_rules_are_proved(package: Package) -> None:
    """When a package is proved with its code allowed, its rules are proved, too."""
    assert prove_rules(package, allow_code=(package.digest,)) == 1
