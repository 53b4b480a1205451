"""`roadworthy pack | inspect | verify`: commands on package files, without a server."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from roadworthy.cli.options import REQUIRED, Options, argument, command, option
from roadworthy.cli.output import answers_of, facts, say, show, size, table
from roadworthy.foundation.errors import PackError

if TYPE_CHECKING:
    from roadworthy.package.package import Package
    from roadworthy.schema.signature import Field, Signature


@dataclass(frozen=True, kw_only=True)
class PackCommandOptions(Options):
    """`pack`."""

    model: Path = argument("MODEL", "A .joblib, .pkl or .onnx file of your own.")
    sample: Path = option("--sample", "Read training rows from this .csv, .parquet, .json or .jsonl file.", REQUIRED)
    name: str = option("--name", "Register the model under this name.", REQUIRED)
    label_column: str | None = option("--label-column", "Treat this column of the sample as the label, not as an input.")
    preprocess: str | None = option(
        "--preprocess", "Pack this function, which prepares raw rows for the model.", metavar="MODULE:FUNCTION"
    )
    original: Path | None = option("--original", "Compare an .onnx MODEL with the .joblib or .pkl it came from.", metavar="FILE")
    rule: list[str] | None = option(
        "--rule", "Pack this function as a fallback rule; repeat for more.", metavar="NAME=MODULE:FUNCTION"
    )
    private: list[str] | None = option(
        "--private", "Store no values of this column; repeat for more.", metavar="COLUMN=hash|drop"
    )
    out: Path = option("--out", "Write the package to this folder.", Path("dist"))
    compile: bool = option("--compile/--no-compile", "Try faster runtimes.", True)


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Options):
    """`inspect`."""

    package: Path = argument("FILE", "A .rw file or an unpacked package.")
    card: bool = option("--card", "Print the model card as Markdown.", False)


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """`verify`."""

    package: Path = argument("FILE", "A .rw file or an unpacked package.")
    prove: bool = option("--prove", "Also load the package and replay its golden examples.", False)
    allow_code: str | None = option("--allow-code", "Allow the code of the package with this digest to run.", metavar="DIGEST")


def pack(options: PackCommandOptions) -> None:
    """Package a model file and prove the package.

    The sample of training rows gives the signature, the profile and the golden examples.
    """
    from roadworthy.package.packing.from_file import read_sample
    from roadworthy.package.packing.pack import pack as pack_model

    options.allow_plugins()
    sample = read_sample(options.sample)
    labels = None
    if options.label_column is not None:
        if options.label_column not in sample.columns:
            raise PackError(
                f"the sample has no column {options.label_column!r}",
                code="label-column-missing",
                hint=f"it has: {', '.join(map(str, sample.columns[:20]))}",
            )
        labels = sample.pop(options.label_column)
    package = pack_model(
        options.model,
        name=options.name,
        inputs=sample,
        labels=labels,
        preprocess=None if options.preprocess is None else _function(options.preprocess, "preprocess"),
        rules=dict(_rule(text) for text in options.rule or ()),
        out=options.out,
        privacy=dict(_private(text) for text in options.private or ()),
        compile=options.compile,
        original=options.original,
        progress=_progress(),
    )
    show(_document(package), f"{_head(package)}\n\n{_outcomes(package)}", as_json=options.json)


def _progress() -> Callable[[str], None]:
    return (lambda step: say(f"{step} …")) if sys.stderr.isatty() else (lambda _step: None)


def _private(text: str) -> tuple[str, str]:
    column, equals, kind = text.rpartition("=")
    if not equals or kind not in ("hash", "drop"):
        raise typer.BadParameter("write --private COLUMN=hash or COLUMN=drop")
    return column, kind


def _rule(text: str) -> tuple[str, Any]:
    name, equals, function = text.partition("=")
    if not equals or ":" not in function:
        raise typer.BadParameter("write --rule NAME=MODULE:FUNCTION")
    return name, _function(function, "rule")


def _function(text: str, what: str) -> Any:
    """The function of `--preprocess` or `--rule`."""
    module, colon, name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # the user's own module, as `python -m` would find it
    try:
        return getattr(importlib.import_module(module), name if colon else what)
    except (ImportError, AttributeError, ValueError) as error:
        raise PackError(
            f"the {what} function cannot be imported: {error}",
            code="preprocess-missing" if what == "preprocess" else "rule-missing",
            hint="write it as MODULE:FUNCTION, and run the command in the folder of the module",
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))


def inspect(options: InspectOptions) -> None:
    """Describe a package without loading it.

    Prints the digest, each runtime with its proof, and the signature; with --card, the model card as Markdown.
    """
    from roadworthy.package.archive import open_package
    from roadworthy.package.card import render_card

    options.allow_plugins()
    package = open_package(options.package)
    text = (
        render_card(package)
        if options.card
        else "\n\n".join((_head(package), _outcomes(package), signature_table(package.signature)))
    )
    show(_document(package), text, as_json=options.json)


def verify(options: VerifyOptions) -> None:
    """Check every byte of a package against its digest.

    With --prove, load it too and compare its answers with the golden examples.
    """
    from roadworthy.package.archive import open_package

    options.allow_plugins()
    package = open_package(options.package)
    document: dict[str, object] = {"digest": package.digest, "name": package.name, "whole": True}
    text = f"{package.name} is intact: {package.digest}"
    if options.prove:
        from roadworthy.loading import load

        with load(options.package, allow_code=options.allow_code) as model:
            document |= {"proved": True, "runtime": model.runtime}
            text += f"\nproved on this machine: its golden examples give the same answers (runtime {model.runtime})"
    show(document, text, as_json=options.json)


def _document(package: Package) -> dict[str, object]:
    return {
        "path": str(package.path),
        "name": package.name,
        "digest": package.digest,
        "runtimes": list(package.runtimes),
        "withheld_runtimes": dict(package.withheld),
        "carries_code": package.carries_code,
        "rules": list(package.rules),
        "signature": package.signature.to_document(),
        "card": dict(package.card),
        "attestations": {name: dict(said) for name, said in package.attestations.items()},
    }


def _head(package: Package) -> str:
    packed = package.path.stat().st_size if package.path.is_file() else None
    code = f"yes: allow it with --allow-code {package.digest}" if package.carries_code else "no"
    return facts(
        {
            "package": package.path,
            "name": package.name,
            "digest": package.digest,
            "size": None if packed is None else size(packed),
            "runtimes": ", ".join(package.runtimes),
            "withheld": "; ".join(package.withheld.values()) or None,
            "rules": ", ".join(package.rules),
            "carries code": code,
            "answers": answers_of(package.signature.to_document()),
        }
    )


def _outcomes(package: Package) -> str:
    """Each runtime that was tried, and whether it was kept."""
    tried = package.attestations.get("compile", {}).get("outcomes", [])
    rows = [
        (
            outcome["name"],
            "yes" if outcome["kept"] else "no",
            "" if outcome["speedup"] is None else f"{outcome['speedup']:.1f}x",
            outcome["reason"],
        )
        for outcome in tried
    ]
    return table(("RUNTIME", "KEPT", "FASTER", "WHY"), rows) if rows else "no other runtime was tried"


def signature_table(signature: Signature) -> str:
    """Inputs and outputs, one on each line."""
    fields = [("in", field) for field in signature.inputs]
    fields += [("out", field) for field in signature.outputs]
    return table(("", "FIELD", "TYPE", "NULLABLE", "SEEN"), [_row(side, field) for side, field in fields])


def _row(side: str, field: Field) -> tuple[object, ...]:
    seen = "" if field.minimum is None else f"{field.minimum} … {field.maximum}"
    if field.categories is not None:
        shown = ", ".join(str(category) for category in field.categories[:6])
        seen = shown if len(field.categories) <= 6 else f"{shown}, … ({len(field.categories)})"
    shape = "" if not field.shape else f"[{','.join('?' if n < 0 else str(n) for n in field.shape)}]"
    return side, field.name, f"{field.dtype.value}{shape}", "yes" if field.nullable else "no", seen


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "pack")(pack)
    command(app, "inspect")(inspect)
    command(app, "verify")(verify)
