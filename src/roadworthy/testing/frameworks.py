"""Conformance checks for framework plug-ins, run on small models.

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    def test_my_framework(check, tmp_path):
        check(case_of(MY_FRAMEWORK, model, sample), tmp_path)

A failed check raises AssertionError with a sentence. `tests/conformance` runs all checks on every framework that is found.
"""

# ruff: noqa: S101  (assertions are how a check reports, as in the tests that call it)

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.foundation.canonical import canonical_json
from roadworthy.foundation.plugins import MEMBER, allow, start_member
from roadworthy.frameworks.discovery import examine_files, framework_for, framework_named, frameworks
from roadworthy.frameworks.framework import FormatMismatch, Framework, Loaded, ModelFolder, Preprocess, Saved
from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.schema.arrow import arrow_to_batch, batch_to_arrow
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.forms import form_of
from roadworthy.schema.infer import infer_inputs, infer_outputs
from roadworthy.schema.restore import Restorer
from roadworthy.schema.signature import Signature
from roadworthy.schema.tables import answers_to_batch, to_batch

_EXACT = Tolerance(rtol=1e-6, atol=1e-9)
_TIMEOUT_S = 120


@dataclass(frozen=True)
class FrameworkCase:
    """A small model of one framework with its expected answers.

    Attributes:
        framework: the framework under test.
        signature: signature of the raw rows and the answers.
        rows: at least four different rows.
        expected: the answers to these rows.
        save: writes the model to an empty folder.
        model: the live model, or None when the framework only loads compiled models.
        preprocess: the preprocessing function, or None.
    """

    framework: Framework
    signature: Signature
    rows: Batch
    expected: Batch
    save: Callable[[Path], Saved]
    model: object | None = None
    preprocess: Preprocess | None = None

    def load(self, folder: Path, threads: int = 1) -> Loaded:
        """Save the model to a new folder below `folder`, and load it from there."""
        place = folder / "model"
        place.mkdir()
        saved = self.save(place)
        return self.framework.load(ModelFolder(place), saved.options, self.signature, threads, self.preprocess)


Check = Callable[[FrameworkCase, Path], None]


def case_of(framework: Framework, model: Any, sample: Any, preprocess: Preprocess | None = None) -> FrameworkCase:
    """A case from a live model and its training rows, inferred as `pack` does."""
    fields, container = infer_inputs(sample)
    rows = to_batch(Layout(fields), sample)
    form = form_of(sample)
    given = Restorer(fields, container, form).restore(rows)
    answers = framework.answer(model, given if preprocess is None else preprocess(given))
    outputs = infer_outputs(answers, categories=framework.categories(model))
    expected = answers_to_batch(Layout(outputs), answers, rows.rows)
    signature = Signature(fields, outputs, container, form)
    return FrameworkCase(framework, signature, rows, expected, lambda folder: framework.save(model, folder), model, preprocess)


def check_name(check: Check) -> str:
    """A readable id for a check."""
    return check.__name__.removeprefix("check_")


def check_found_by_name(case: FrameworkCase, folder: Path) -> None:  # noqa: ARG001  (all checks have the same parameters)
    """Discovery finds the framework by its name."""
    name = case.framework.name
    assert framework_named(name) is case.framework, f"{name} is not found by its name"
    assert name == name.lower().strip(), f"{name!r} is not lower case"


def check_recognised_by_itself_only(case: FrameworkCase, folder: Path) -> None:  # noqa: ARG001
    """The framework recognises its own models, but no other framework's models and no other objects."""
    for other in (None, 5, "text", {}, [], object()):
        assert not case.framework.recognises(other), f"recognises {other!r}"
    if case.model is None:
        return
    assert framework_for(case.model) is case.framework, "discovery chooses another framework for its model"
    claimed = [name for name, framework in frameworks().items() if framework.recognises(case.model)]
    assert set(claimed) <= {case.framework.name, "python"}, f"recognised by {claimed}"


def check_saved_is_described(case: FrameworkCase, folder: Path) -> None:
    """Options are JSON without floats, the distributions are installed, and trust is one of the known kinds."""
    saved = case.save(folder)
    canonical_json(dict(saved.options))
    assert saved.trust in ("data", "skops", "pickle"), f"unknown trust {saved.trust!r}"
    assert saved.carries_code or saved.trust == "data", "files that are not plain data must carry code"
    found = examine_files(case.framework, ModelFolder(folder), saved.options)
    assert (found.carries_code, found.trust) == (saved.carries_code, saved.trust), "`examine` and `save` disagree about the files"
    assert saved.distributions == tuple(sorted(set(saved.distributions))), "distributions are not sorted and unique"
    assert [path for path in folder.rglob("*") if path.is_file()], "nothing was written"


def check_options_make_no_trust(case: FrameworkCase, folder: Path) -> None:
    """Trust follows from the files alone: no option makes code count as data, and an added or replaced pickle is never data."""
    saved = case.save(folder)
    found = examine_files(case.framework, ModelFolder(folder), saved.options)
    for claim in ({"trust": "data"}, {"carries_code": False}, {"file": "else"}, {"file": "../model"}):
        _assert_no_data(case, folder, {**saved.options, **claim}, was=found.trust)
    (folder / "added.pkl").write_bytes(pickle.dumps(case.rows.rows))
    _assert_no_data(case, folder, saved.options, was="")
    (folder / "added.pkl").unlink()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.write_bytes(pickle.dumps(print))
        _assert_no_data(case, folder, saved.options, was="")


def _assert_no_data(case: FrameworkCase, folder: Path, options: Mapping[str, Any], *, was: str) -> None:
    """Assert that `examine` refuses the files, finds code in them, or finds the same trust as before (`was`)."""
    with contextlib.suppress(FormatMismatch):
        found = examine_files(case.framework, ModelFolder(folder), options)
        assert found.carries_code or found.trust == was, f"examined with {dict(options)!r:.200}, the files are {found}"


def check_loaded_answers_the_same(case: FrameworkCase, folder: Path) -> None:
    """A saved and loaded model gives the live model's answers, in the form of the signature's outputs."""
    loaded = case.load(folder)
    answer = loaded.run(case.rows)
    _assert_same(case.expected, answer)
    assert answer.layout == Layout(case.signature.outputs)
    for form, block in zip(answer.layout.blocks, answer.blocks, strict=True):
        assert block.values.dtype == form.dtype.numpy, f"{form.dtype.value} is stored as {block.values.dtype}"
        assert block.mask is None or block.mask.shape == block.values.shape
    loaded.close()


def check_rows_are_independent(case: FrameworkCase, folder: Path) -> None:
    """Single rows, slices and joined requests get the same answers as the whole batch, in order."""
    loaded = case.load(folder)
    count = case.rows.rows
    for row in range(min(count, 4)):
        _assert_same(case.expected.slice(row, row + 1), loaded.run(case.rows.slice(row, row + 1)))
    backwards = list(range(count))[::-1]
    _assert_same(case.expected.take(backwards), loaded.run(case.rows.take(backwards)))
    joined = Batch.concatenate([case.rows.slice(1, count), case.rows])
    _assert_same(Batch.concatenate([case.expected.slice(1, count), case.expected]), loaded.run(joined))
    loaded.close()


def check_rows_are_left_alone(case: FrameworkCase, folder: Path) -> None:
    """A run changes neither its batch, which is recorded after the answer, nor the answers of earlier runs."""
    loaded = case.load(folder)
    kept = case.rows.take(range(case.rows.rows))
    first = loaded.run(case.rows)
    loaded.run(case.rows.take([0] * case.rows.rows))
    _assert_same(kept, case.rows)
    _assert_same(case.expected, first)
    loaded.close()


def check_two_live_side_by_side(case: FrameworkCase, folder: Path) -> None:
    """Two models are loaded at the same time; closing one leaves the other usable."""
    places = [folder / "one", folder / "two"]
    for place in places:
        place.mkdir()
    one, two = (case.load(place) for place in places)
    one.run(case.rows)
    one.close()
    _assert_same(case.expected, two.run(case.rows))
    two.close()


def check_concurrent_runs_agree(case: FrameworkCase, folder: Path) -> None:
    """A model that declares itself concurrent answers several threads at once."""
    loaded = case.load(folder)
    if loaded.concurrent:
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda _: loaded.run(case.rows), range(24)):
                _assert_same(case.expected, answer)
    loaded.close()


def check_closed_answers_nothing(case: FrameworkCase, folder: Path) -> None:
    """A run after `close` raises."""
    loaded = case.load(folder)
    loaded.close()
    try:
        loaded.run(case.rows.slice(0, 1))
    except Exception:  # noqa: BLE001  (any error will do)
        return
    raise AssertionError("a closed model still answers")


def check_loads_elsewhere(case: FrameworkCase, folder: Path) -> None:
    """A process outside the project and without its modules gives the same answers."""
    if case.preprocess is not None:
        return  # a package carries preprocessing separately, with its own tests
    import pyarrow as pa

    place = folder / "model"
    place.mkdir()
    saved = case.save(place)
    table = batch_to_arrow(case.rows)
    with pa.ipc.new_file(str(folder / "rows"), table.schema) as writer:
        writer.write_table(table)
    document = {
        "framework": case.framework.name,
        "options": dict(saved.options),
        "signature": case.signature.to_document(),
        **start_member(),
    }
    (folder / "case.json").write_text(json.dumps(document))
    command = [sys.executable, "-I", "-m", "roadworthy.testing.frameworks", str(folder)]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)  # noqa: S603
    assert done.returncode == 0, f"the model does not run in another process: {done.stderr[-2000:]}"
    with pa.ipc.open_file(str(folder / "answers")) as reader:
        _assert_same(case.expected, arrow_to_batch(Layout(case.signature.outputs), reader.read_all()))


def _run_here(folder: Path) -> None:
    """Child process of `check_loads_elsewhere`: load the model in `folder` and write the answers for `rows` to `answers`."""
    import pyarrow as pa

    document = json.loads((folder / "case.json").read_text())
    allow(document.get(MEMBER, ()))
    signature = Signature.from_document(document["signature"])
    files = ModelFolder(folder / "model")
    loaded = framework_named(document["framework"]).load(files, document["options"], signature, 1, None)
    with pa.ipc.open_file(str(folder / "rows")) as reader:
        rows = arrow_to_batch(Layout(signature.inputs), reader.read_all())
    table = batch_to_arrow(loaded.run(rows))
    with pa.ipc.new_file(str(folder / "answers"), table.schema) as writer:
        writer.write_table(table)


def _assert_same(expected: Batch, found: Batch) -> None:
    difference = compare(expected, found, _EXACT)
    assert difference is None, str(difference)
    assert found.rows == expected.rows
    assert all(np.shape(block.values)[0] == found.rows for block in found.blocks), "the blocks differ in their number of rows"


CHECKS: tuple[Check, ...] = (
    check_found_by_name,
    check_recognised_by_itself_only,
    check_saved_is_described,
    check_options_make_no_trust,
    check_loaded_answers_the_same,
    check_rows_are_independent,
    check_rows_are_left_alone,
    check_two_live_side_by_side,
    check_concurrent_runs_agree,
    check_closed_answers_nothing,
    check_loads_elsewhere,
)

if __name__ == "__main__":
    _run_here(Path(sys.argv[1]))
