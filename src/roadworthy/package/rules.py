"""Rules of a package: Python functions that answer when its model cannot. `pack.py` saves them; a runner process loads one.

A rule takes the same rows as the model's own code, and returns every output of the signature.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackageRefused, PackError, ProofFailed, RoadworthyError
from roadworthy.frameworks.answers import named_answers
from roadworthy.frameworks.code import load_callable, save_callable
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.package.audit import check_code_allowed
from roadworthy.package.construct import Constructed, not_unpacked
from roadworthy.package.manifest import RuleEntry, RuntimeEntry
from roadworthy.package.natures import SealedFiles
from roadworthy.package.package import Package
from roadworthy.package.requirements import check_environment

Rule = Callable[[Any], Any]
"""Rows in the training container to answers: a dict of arrays by output name, or one array for a single output."""
RUNTIME = "rule"
"""The runtime name of a rule's runner."""
_FOLDER = "rules"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


def save_rules(rules: Mapping[str, Rule], folder: Path) -> tuple[RuleEntry, ...]:
    """Save the rules below the package's `folder`, with the user's own code by value.

    Raises:
        PackError: "invalid-rule", or "unpicklable-model".
    """
    entries = []
    for name, rule in sorted(rules.items()):
        if not _NAME.fullmatch(name) or not callable(rule):
            raise PackError(
                f"rules={name[:80]!r}: expected a function under a valid name",
                code="invalid-rule",
                hint="give functions; their names have 1 to 64 of a-z, 0-9, '.', '_', '-'",
            )
        place = f"{_FOLDER}/{name}"
        (folder / place).mkdir(parents=True)
        saved = save_callable(rule, folder / place)
        entries.append(RuleEntry(name, place, dict(saved.options), saved.distributions))
    return tuple(entries)


def load_rule(package: Package, name: str, *, allow_code: Collection[str]) -> Constructed:
    """Load the rule as an object that runs batches like a model. Executes the package's code.

    Raises:
        PackageRefused: "rule-missing", "code-not-allowed", "not-unpacked", "code-not-loadable", and those of `check_environment`.
    """
    entry = next((rule for rule in package.manifest.rules if rule.name == name), None)
    if entry is None:
        raise PackageRefused(
            f"the package {package.name} has no rule {name[:80]!r}",
            code="rule-missing",
            hint=f"its rules: {', '.join(package.rules) or 'none'}",
        )
    check_code_allowed(package, allow_code)
    if package.folder is None:
        raise not_unpacked(package)
    check_environment(package.manifest, _as_runtime(entry))
    function = load_callable(SealedFiles(package, entry.folder))
    bare = package.signature.outputs[0].name
    loaded = NativeLoaded(lambda rows: named_answers(function(rows), bare), package.signature, 1, None)
    return Constructed(package, RUNTIME, loaded)


def prove_rules(package: Package, *, allow_code: Collection[str]) -> int:
    """Prove every rule; return their number.

    Raises:
        ProofFailed: as `prove_rule`.
        PackageRefused: as `load_rule`.
    """
    for name in package.rules:
        rule = load_rule(package, name, allow_code=allow_code)
        prove_rule(rule, name)
        rule.close()
    return len(package.rules)


def prove_rule(rule: Constructed, name: str) -> None:
    """Ask the rule about the inputs of the golden examples.

    Raises:
        ProofFailed: "rule-failed-on-golden": it raises, or its answers do not fit the signature.
    """
    inputs, _ = rule.package.golden()
    try:
        answers = rule.run(inputs)
    except RoadworthyError as error:
        raise _failed(name, error.message) from error
    except Exception as error:  # the package's own code may raise anything
        raise _failed(name, f"it raised {type(error).__name__}") from error
    for block in answers.blocks:
        if block.values.dtype.kind == "f" and not np.isfinite(block.values).all():
            raise _failed(name, "an answer is not a finite number")


def _failed(name: str, reason: str) -> ProofFailed:
    return ProofFailed(
        f"the rule {name!r} failed on the golden examples: {reason}",
        code="rule-failed-on-golden",
        hint="a rule takes the same rows as the model, and returns every output of the model, one value per row",
        facts={"rule": name},
    )


def _as_runtime(rule: RuleEntry) -> RuntimeEntry:
    return RuntimeEntry(
        name=rule.name,
        framework="python",
        folder=rule.folder,
        options=rule.options,
        trust="pickle",
        carries_code=True,
        preprocess=False,
        requirements=rule.requirements,
    )
