"""The public entry point for packing: from live objects and training rows to a sealed, proved .rw file.

Order: examine the training data (`training.py`) → save → golden examples and profile → compile → seal → replay in a separate
process (`replay.py`) → one file (`archive.py`).
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, Unpack

from roadworthy.foundation.canonical import canonical_json
from roadworthy.foundation.errors import PackError
from roadworthy.foundation.references import check_name
from roadworthy.frameworks.code import save_callable
from roadworthy.frameworks.discovery import framework_for
from roadworthy.frameworks.framework import Loaded, ModelFolder, Preprocess, Saved
from roadworthy.optimize.compile import Outcome, Source, compile_runtimes
from roadworthy.optimize.equal import Tolerance
from roadworthy.package import attestations
from roadworthy.package.archive import SUFFIX, pack_file
from roadworthy.package.files import describe_files
from roadworthy.package.golden import DEFAULT_EXAMPLES, write_golden
from roadworthy.package.manifest import FORMAT, FORMAT_AT_ONCE, MANIFEST, CodeEntry, Manifest, RuleEntry, RuntimeEntry
from roadworthy.package.manifest import Tolerance as ManifestTolerance
from roadworthy.package.package import CARD, PROFILE, Package
from roadworthy.package.packing.examples import make_examples
from roadworthy.package.packing.from_file import opened
from roadworthy.package.packing.original import answers_of, compared_with_original
from roadworthy.package.packing.parts import look_at_parts
from roadworthy.package.packing.subject import Subject
from roadworthy.package.packing.training import Training, look_at
from roadworthy.package.profile import build_profile
from roadworthy.package.replay import replay_isolated
from roadworthy.package.requirements import lock, python_minor
from roadworthy.package.rules import Rule, save_rules
from roadworthy.package.runtimes import NATIVE
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Privacy

_RUNTIMES = "runtimes"
_CODE = "code"


class PackOptions(TypedDict, total=False):
    """Options of `pack`, in addition to the model and its data.

    Keys:
        out: folder for the packed file; "dist" by default.
        privacy: column name → "keep", "hash" or "drop"; golden examples and profile contain no private values.
        tolerance: how far two floats may differ and still count as equal; rtol 1e-5 and atol 1e-6 by default.
        card: the author's text for the model card, heading → paragraph.
        compile: whether to try faster runtimes; True by default.
        examples: number of golden examples, 64 by default.
        progress: called with one short sentence at each step.
        rules: name → function of rows that may answer when the model cannot, for the fallback "rule". It takes the same rows as
            `preprocess`, or as `model` without one, and returns every output of the model.
        original: the live model (or its path) from which `model`, an ONNX graph, was converted. Packing compares the graph with
            it as strictly as its own conversions, and the golden examples hold the original's answers. It takes the same rows
            as `model`.
    """

    out: Path | str
    privacy: Mapping[str, Privacy | str]
    tolerance: Tolerance
    card: Mapping[str, str]
    compile: bool
    examples: int
    progress: Callable[[str], None]
    rules: Mapping[str, Rule]
    original: Any


def pack(
    model: Any,
    *,
    name: str,
    inputs: Any,
    labels: Any = None,
    preprocess: Preprocess | None = None,
    outputs: Any = None,
    **options: Unpack[PackOptions],
) -> Package:
    """Package a trained model with everything it needs, prove it, and write one file.

    Args:
        model: a scikit-learn estimator or pipeline, an ONNX ModelProto, any callable of rows, also a generator function, which
            answers in parts; or the path of your own .onnx,
            .joblib or .pkl file, which is loaded in this process.
        name: the model's name: 1 to 64 of a-z, 0-9, '.', '_', '-'.
        inputs: the raw training rows: pandas or polars DataFrame, numpy array, list of records.
        labels: the true label of each row; used only for the counts in the profile.
        preprocess: the function from raw rows to the input of `model`, unless the model contains it.
        outputs: the answers to `inputs` in training: labels or predictions, a matrix of probabilities, or a dict of answers by
            name. They become the answers of the golden examples; by default the live model's answers do.
        options: see PackOptions.

    Returns:
        The package in its file `<out>/<name>-<digest>.rw`.

    Raises:
        PackError: the model cannot be packaged as it is; the hint says what to change.
        ProofFailed: the live or the saved model's answers differ from those of training, or a graph's from its original's.
    """
    say = options.get("progress", _silent)
    tolerance = options.get("tolerance", Tolerance())
    model, original = opened(model), opened(options.get("original"))
    subject = Subject(framework_for(model), model, preprocess)
    check_name(name, "model name")
    say("asking the model about its training rows")
    training, parts = _look(subject, (inputs, labels, outputs), original, options)
    reference = None if original is None else answers_of(original, training.signature, preprocess)
    if reference is not None:
        training = replace(training, answers=reference(training.sample))
    with tempfile.TemporaryDirectory(prefix="roadworthy-pack-") as scratch:
        draft = _Draft(Path(scratch), name, subject, training, tolerance, parts)
        say("saving")
        draft.save(options.get("examples", DEFAULT_EXAMPLES), options.get("card", {}))
        draft.rules = save_rules(options.get("rules", {}), draft.folder)
        outcomes: tuple[Outcome, ...] = ()
        if options.get("compile", True) and subject.framework.name == "scikit-learn":
            say("compiling and comparing with the original")
            outcomes = draft.compile()
        if reference is not None:
            say("comparing the graph with its original")
            outcomes = (draft.compare(reference),)
        digest = draft.seal(outcomes)
        say("replaying the golden examples in a separate process")
        proofs = replay_isolated(draft.folder)
        attestations.write_attestation(draft.folder, attestations.PROOF, digest, {"proofs": proofs})
        target = Path(options.get("out", "dist")) / f"{name}-{digest.removeprefix('sha256:')[:12]}{SUFFIX}"
        return pack_file(draft.folder, target)


def _look(
    subject: Subject, given: tuple[Any, Any, Any], original: Any, options: PackOptions
) -> tuple[Training, tuple[int, ...] | None]:
    """What the model answers to its training rows; of one that answers in parts also how many parts each example has. `given`:
    inputs, labels, outputs."""
    inputs, labels, outputs = given
    tolerance = options.get("tolerance", Tolerance())
    privacy = {column: Privacy(kind) for column, kind in options.get("privacy", {}).items()}
    if not subject.yields_parts:
        return look_at(subject, inputs, labels, outputs, privacy, tolerance), None
    if outputs is not None or original is not None:
        raise PackError(
            "outputs= and original= are for models that answer at once; this one answers in parts",
            code="unsupported-output",
            hint="leave them out: packing asks the model itself",
        )
    return look_at_parts(subject, inputs, labels, privacy, options.get("examples", DEFAULT_EXAMPLES), tolerance)


def _silent(_step: str) -> None:
    """No progress is shown."""


@dataclass
class _Draft:
    """A package before it is sealed: a folder that is being filled."""

    folder: Path
    name: str
    subject: Subject
    training: Training
    tolerance: Tolerance
    parts: tuple[int, ...] | None
    rules: tuple[RuleEntry, ...] = ()

    def save(self, examples: int, card: Mapping[str, str]) -> None:
        """Write model, code, golden examples, profile and card."""
        native = self.folder / _RUNTIMES / NATIVE
        native.mkdir(parents=True)
        self.native = self.subject.framework.save(self.subject.model, native)
        self.code: Saved | None = None
        if self.subject.preprocess is not None:
            (self.folder / _CODE).mkdir()
            self.code = save_callable(self.subject.preprocess, self.folder / _CODE)
        if self.parts is None:
            self.golden = make_examples(self.subject, self.training, examples)
        else:
            self.golden = self.training.sample, self.training.answers
        write_golden(self.folder, *self.golden, self.parts)
        profile = build_profile(self.training.rows, self.training.answers, self.training.labels)
        (self.folder / PROFILE).write_bytes(canonical_json(profile))
        (self.folder / CARD).write_bytes(canonical_json(dict(card)))

    def compile(self) -> tuple[Outcome, ...]:
        """Try other runtimes; one that is equal and faster is saved next to the native one."""
        loaded = self._load_native()
        source = Source(
            model=self.subject.model,
            signature=self.training.signature,
            reference=loaded.run,
            golden=self.golden[0],
            training=self.training.sample,
            preprocess=self.subject.preprocess,
        )
        try:
            return compile_runtimes(source, self.folder / _RUNTIMES)
        finally:
            loaded.close()

    def compare(self, reference: Callable[[Batch], Batch]) -> Outcome:
        """Compare a graph with its original."""
        loaded = self._load_native()
        try:
            return compared_with_original(reference, self.training, self.golden[0], loaded, self.tolerance)
        finally:
            loaded.close()

    def _load_native(self) -> Loaded:
        folder = ModelFolder(self.folder / _RUNTIMES / NATIVE)
        signature, preprocess = self.training.signature, self.subject.preprocess
        return self.subject.framework.load(folder, self.native.options, signature, 1, preprocess)

    def seal(self, outcomes: tuple[Outcome, ...]) -> str:
        """Write the manifest and the attestations about it; return the digest."""
        kept = [outcome for outcome in outcomes if outcome.kept and outcome.saved is not None]
        entries = [_entry(NATIVE, self.subject.framework.name, self.native, preprocess=self.code is not None)]
        entries += [_entry(o.name, o.framework, o.saved, preprocess=False) for o in kept if o.saved is not None]
        code = self.code
        names = {name for entry in entries for name in entry.requirements} | set(code.distributions if code else ())
        names.update(name for rule in self.rules for name in rule.requirements)
        requirements = lock(names)
        locked = {requirement.name for requirement in requirements}
        manifest = Manifest(
            name=self.name,
            python=python_minor(),
            signature=self.training.signature,
            files=describe_files(self.folder),
            requirements=requirements,
            runtimes=tuple(entries),
            preprocess=None if code is None else CodeEntry(_CODE, dict(code.options), code.distributions),
            tolerance=ManifestTolerance(repr(self.tolerance.rtol), repr(self.tolerance.atol)),
            rules=self.rules,
            format=FORMAT_AT_ONCE if self.parts is None else FORMAT,
        )
        missing = names - locked
        if missing:
            raise PackError(
                f"the model uses libraries that are not installed as distributions: {', '.join(sorted(missing))}",
                code="requirement-unknown",
                hint="install them with pip, so that the package can lock their versions",
            )
        (self.folder / MANIFEST).write_bytes(manifest.encode())
        self._attest(manifest.digest, outcomes)
        return manifest.digest

    def _attest(self, digest: str, outcomes: tuple[Outcome, ...]) -> None:
        kept = sorted((o for o in outcomes if o.kept), key=lambda o: -(o.speedup or 0.0))
        document = {"prefer": [*(o.name for o in kept), NATIVE], "outcomes": [_outcome(o) for o in outcomes]}
        attestations.write_attestation(self.folder, attestations.COMPILE, digest, document)
        provenance = {
            "packed_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "platform": platform.system().lower(),
            "rows": self.training.rows.rows,
        }
        attestations.write_attestation(self.folder, attestations.PROVENANCE, digest, provenance)


def _entry(name: str, framework: str, saved: Saved, *, preprocess: bool) -> RuntimeEntry:
    return RuntimeEntry(
        name=name,
        framework=framework,
        folder=f"{_RUNTIMES}/{name}",
        options=dict(saved.options),
        trust=saved.trust,
        carries_code=saved.carries_code,
        preprocess=preprocess,
        requirements=tuple(saved.distributions),
    )


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "kept": outcome.kept,
        "reason": outcome.reason,
        "constructed": list(outcome.constructed),
        "compared": dict(outcome.compared),
        "speedup": outcome.speedup,
        "speedup_100": outcome.speedup_100,
        "difference": None if outcome.difference is None else asdict(outcome.difference),
    }
