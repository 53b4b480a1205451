"""The model card as Markdown: the author's text and the results of packing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadworthy.optimize.candidates.candidate import CONSTRUCTION
from roadworthy.package.attestations import COMPILE, PROVENANCE
from roadworthy.package.manifest import RuntimeEntry
from roadworthy.package.package import Package
from roadworthy.schema.signature import Field


def render_card(package: Package) -> str:
    """Markdown: the author's text, signature, the serving runtime and its proof, requirements, provenance."""
    manifest = package.manifest
    lines = [f"# {package.name}", "", f"`{package.digest}`", ""]
    for heading, text in package.card.items():
        lines += [f"## {heading}", "", text, ""]
    lines += ["## Inputs", "", *_fields(package.signature.inputs), ""]
    lines += ["## Answers", "", *_fields(package.signature.outputs), ""]
    lines += ["## Runtimes", "", f"`{package.runtimes[0]}` serves.", "", *_outcomes(package.attestations), ""]
    lines += [f"- `{name}` may not serve: {reason}." for name, reason in package.withheld.items()]
    lines += [line for entry in manifest.runtimes for line in _construction(entry)]
    lines += ["## Requirements", "", f"- Python {manifest.python}", *(f"- {r}" for r in manifest.requirements), ""]
    provenance = package.attestations.get(PROVENANCE, {})
    lines += [f"Packed {provenance.get('packed_at', 'at an unknown time')}.", ""]
    return "\n".join(lines)


def _fields(fields: Sequence[Field]) -> list[str]:
    lines = ["| name | type | nulls | seen in training |", "|---|---|---|---|"]
    for field in fields:
        shape = f" {list(field.shape)}" if field.shape else ""
        if field.categories is not None:
            seen = f"{len(field.categories)} values"
        else:
            seen = "" if field.minimum is None else f"{field.minimum} to {field.maximum}"
        name = field.name.replace("|", "\\|")
        lines.append(f"| {name} | {field.dtype.value}{shape} | {'yes' if field.nullable else 'no'} | {seen} |")
    return lines


def _construction(entry: RuntimeEntry) -> list[str]:
    """How the runtime was constructed, and which values it refuses because the original refuses them."""
    stated = entry.options.get(CONSTRUCTION, [])
    if not stated:
        return []
    lines = [f"How `{entry.name}` was constructed:", "", *(f"- {step}" for step in stated)]
    guards = entry.options.get("guards", [])
    if guards:
        said = entry.options.get("refusal", "")
        lines.append(f"- out-of-range values in {len(guards)} columns are refused, as the original refuses them ({said})")
    return [*lines, ""]


def _outcomes(attestations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    try:
        return [_outcome(outcome) for outcome in attestations.get(COMPILE, {}).get("outcomes", [])] or [
            "No other runtime was tried."
        ]
    except (KeyError, TypeError, ValueError, AttributeError):  # the digest does not cover attestations
        return ["The compile attestation cannot be read."]


def _outcome(outcome: Mapping[str, Any]) -> str:
    verdict = "kept" if outcome["kept"] else "not kept"
    compared = ", ".join(f"{count} {kind}" for kind, count in outcome["compared"].items() if count)
    speed = f"; {outcome['speedup']:.1f} times the speed of the original for one row" if outcome.get("speedup") else ""
    rows = f" (rows compared: {compared})" if compared else ""
    return f"- `{outcome['name']}` {verdict}: {outcome['reason']}{rows}{speed}"
