"""Rules of a package: Python functions that answer where its model cannot. Saved by `pack.py`, run by `runtime/rules.py`.

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
from roadworthy.package.manifest import RuleEntry, RuntimeEntry
from roadworthy.package.natures import SealedFiles
from roadworthy.package.package import Package
from roadworthy.package.requirements import check_environment
from roadworthy.schema.batch import Batch

Rule = Callable[[Any], Any]
"""Rows in the training container to answers: a dict of arrays by output name, or one array for a single output."""
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


def load_rule(package: Package, name: str, *, allow_code: Collection[str]) -> Callable[[Batch], Batch] | None:
    """The rule as a function over batches, or None when the package has none of that name. Executes the package's code.

    Raises:
        PackageRefused: "code-not-allowed", "not-unpacked", "code-not-loadable", and those of `check_environment`.
    """
    entry = next((rule for rule in package.manifest.rules if rule.name == name), None)
    if entry is None:
        return None
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
    return NativeLoaded(lambda rows: named_answers(function(rows), bare), package.signature, 1, None).run


def prove_rules(package: Package, *, allow_code: Collection[str]) -> int:
    """Ask every rule about the golden examples' inputs; return how many there are.

    Raises:
        ProofFailed: "rule-failed-on-golden": a rule raises, or answers what the signature does not allow.
        PackageRefused: as `load_rule`.
    """
    for name in package.rules:
        rule = load_rule(package, name, allow_code=allow_code)
        inputs, _ = package.golden()
        try:
            answers = None if rule is None else rule(inputs)
        except RoadworthyError as error:
            raise _failed(name, error.message) from error
        except Exception as error:  # the package's own code may raise anything
            raise _failed(name, f"it raised {type(error).__name__}") from error
        for block in answers.blocks if answers is not None else ():
            if block.values.dtype.kind == "f" and not np.isfinite(block.values).all():
                raise _failed(name, "it answered a value that is not a finite number")
    return len(package.rules)


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
