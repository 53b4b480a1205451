"""Rules of a package: Python functions that answer where its model cannot. Saved by `pack.py`; runner processes load one each.

A rule takes rows as the model's own code takes them, and gives every output of the signature.
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
from roadworthy.package.construct import Constructed
from roadworthy.package.manifest import RuleEntry, RuntimeEntry
from roadworthy.package.natures import SealedFiles
from roadworthy.package.package import Package
from roadworthy.package.requirements import check_environment

Rule = Callable[[Any], Any]
"""Rows in the training container to answers: a dict of arrays by output name, or one array for a single output."""
RUNTIME = "rule"
"""What a runner of a rule calls its runtime."""
_FOLDER = "rules"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


def save_rules(rules: Mapping[str, Rule], folder: Path) -> tuple[RuleEntry, ...]:
    """Write the rules below the package's `folder`, with the user's own code by value.

    Raises:
        PackError: "invalid-rule", or "unpicklable-model".
    """
    entries = []
    for name, rule in sorted(rules.items()):
        if not _NAME.fullmatch(name) or not callable(rule):
            raise PackError(
                f"rules= has {name[:80]!r}, which is no rule",
                code="invalid-rule",
                hint="give functions by names of 1 to 64 of a-z, 0-9, '.', '_', '-'",
            )
        place = f"{_FOLDER}/{name}"
        (folder / place).mkdir(parents=True)
        saved = save_callable(rule, folder / place)
        entries.append(RuleEntry(name, place, dict(saved.options), saved.distributions))
    return tuple(entries)


def load_rule(package: Package, name: str, *, allow_code: Collection[str]) -> Constructed:
    """The rule as something that runs batches, as models do. Executes the package's code.

    Raises:
        PackageRefused: "rule-missing", "code-not-allowed", "not-unpacked", "code-not-loadable", and those of `check_environment`.
    """
    entry = next((rule for rule in package.manifest.rules if rule.name == name), None)
    if entry is None:
        raise PackageRefused(
            "the package has no rule of that name",
            code="rule-missing",
            hint="its rules are shown by roadworthy inspect",
        )
    if package.digest not in allow_code:
        raise PackageRefused(
            f"the package {package.name} would execute code of its own",
            code="code-not-allowed",
            hint=f"if you trust where it came from, say so by its digest: --allow-code {package.digest}",
            facts={"digest": package.digest},
        )
    if package.folder is None:
        raise PackageRefused("the package is packed", code="not-unpacked", hint="unpack it first")
    check_environment(package.manifest, _as_runtime(entry))
    function = load_callable(SealedFiles(package, entry.folder))
    bare = package.signature.outputs[0].name
    loaded = NativeLoaded(lambda rows: named_answers(function(rows), bare), package.signature, 1, None)
    return Constructed(package, RUNTIME, loaded)


def prove_rules(package: Package, *, allow_code: Collection[str]) -> int:
    """Prove every rule; return how many there are.

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
    """Ask the rule about the golden examples' inputs.

    Raises:
        ProofFailed: "rule-failed-on-golden": it raises, or answers what the signature does not allow.
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
            raise _failed(name, "it answered a value that is not a finite number")


def _failed(name: str, reason: str) -> ProofFailed:
    return ProofFailed(
        f"the rule {name!r} failed on the golden examples: {reason}",
        code="rule-failed-on-golden",
        hint="a rule takes rows as the model does, and answers every output of the model, one row for each row asked",
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
