"""Forged packages: each is written by hand with right hashes, and holds a pickle that leaves a mark when it is read."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np

import roadworthy as rw
from bench.redteam.archives import seal, take_apart
from bench.redteam.packages import ROWS, file_of, graph

NATIVE = Path("runtimes/native")
Lie = Callable[[Path, dict[str, Any], bytes], None]


class Marking:
    """Its pickle writes the file `mark` when it is read, and becomes a function that can answer."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> Any:
        return (eval, (f"[open({self._mark!r}, 'w').close(), lambda rows: rows[:, :1]][1]",))


def halved(rows: Any) -> Any:
    """A rule."""
    return rows / 2


def doubled(rows: Any) -> Any:
    """Preprocessing that keeps the shape."""
    return rows * 2


def make_honest(out: Path) -> dict[str, rw.Package]:
    """Packages by kind: scikit-learn, a graph, a graph behind preprocessing, a graph with a rule."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(ROWS, ROWS[:, 0] > 0)
    how: dict[str, Any] = {"inputs": ROWS, "out": out, "examples": 4}
    return {
        "pickle": rw.pack(model, name="pickle", compile=False, **how),
        "graph": rw.pack(graph(), name="graph", **how),
        "behind": rw.pack(graph(), name="behind", preprocess=doubled, **how),
        "ruled": rw.pack(graph(), name="ruled", rules={"half": halved}, **how),
    }


def says(**lies: Any) -> Lie:
    """The pickle stays, but the manifest describes it falsely."""

    def lie(folder: Path, manifest: dict[str, Any], evil: bytes) -> None:
        (folder / NATIVE / "model.pkl").write_bytes(evil)
        manifest["runtimes"][0].update(lies)

    return lie


def is_called(name: str, make: Callable[[bytes], bytes] = bytes, **lies: Any) -> Lie:
    """A pickle, possibly inside a container, under the name of another format."""

    def lie(folder: Path, manifest: dict[str, Any], evil: bytes) -> None:
        shutil.rmtree(folder / NATIVE)
        (folder / NATIVE).mkdir()
        (folder / NATIVE / name).write_bytes(make(evil))
        data = {"carries_code": False, "trust": "data", "preprocess": False, "framework": "onnx", "options": {}}
        manifest["runtimes"][0].update({**data, **lies})

    return lie


def in_npz(evil: bytes) -> bytes:
    """An array of objects in numpy's container."""
    file = io.BytesIO()
    np.savez(file, model=np.array([pickle.loads, evil], dtype=object))
    return file.getvalue()


def by_joblib(evil: bytes) -> bytes:
    """A pickle in joblib's format."""
    file = io.BytesIO()
    joblib.dump({"inner": evil}, file)
    return file.getvalue() + evil


def adds_a_runtime(folder: Path, manifest: dict[str, Any], evil: bytes) -> None:
    """A pickle next to an honest graph, under a runtime name that serves without being proved equal."""
    (folder / "runtimes/onnx-exact").mkdir()
    (folder / "runtimes/onnx-exact/code.pkl").write_bytes(evil)
    added = {**manifest["runtimes"][0], "name": "onnx-exact", "folder": "runtimes/onnx-exact", "framework": "python"}
    added |= {"options": {"construction": ["claimed"]}, "requirements": []}
    manifest["runtimes"].insert(0, added)


def adds_a_file(name: str) -> Lie:
    """A pickle outside the parts of the package, or next to one."""

    def lie(folder: Path, _manifest: dict[str, Any], evil: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(evil)

    return lie


def hides_the_preprocessing(folder: Path, manifest: dict[str, Any], evil: bytes) -> None:
    """The code is present and listed, but the original claims to take raw rows."""
    (folder / "code/code.pkl").write_bytes(evil)
    manifest["runtimes"][0]["preprocess"] = False


def forgets_the_preprocessing(folder: Path, manifest: dict[str, Any], evil: bytes) -> None:
    """The code is present, but not listed."""
    hides_the_preprocessing(folder, manifest, evil)
    manifest["preprocess"] = None


def forgets_the_rules(folder: Path, manifest: dict[str, Any], evil: bytes) -> None:
    """Likewise."""
    (folder / "rules/half/code.pkl").write_bytes(evil)
    manifest["rules"] = []


LIES: dict[str, tuple[str, Lie]] = {
    "no code, data": ("pickle", says(carries_code=False, trust="data", preprocess=False)),
    "no code": ("pickle", says(carries_code=False)),
    "data": ("pickle", says(trust="data")),
    "skops": ("pickle", says(trust="skops")),
    "no code, skops": ("pickle", says(carries_code=False, trust="skops")),
    "another framework": ("pickle", says(framework="onnx", carries_code=False, trust="data")),
    "another framework, and its file": (
        "pickle",
        says(framework="onnx", carries_code=False, trust="data", options={"file": "model.pkl"}),
    ),
    "another framework of code": ("pickle", says(framework="python")),
    "preprocessing that does not exist": ("pickle", says(preprocess=True)),
    "another folder": ("pickle", says(folder="golden")),
    "a pickle as a graph": ("pickle", is_called("model.onnx")),
    "a .joblib as a graph": ("pickle", is_called("model.onnx", by_joblib)),
    "an .npz as a graph": ("pickle", is_called("model.npz", in_npz, options={"file": "model.npz"})),
    "a graph that says it is code": ("graph", lambda _f, m, _e: m["runtimes"][0].update(carries_code=True)),
    "a graph that says it is a pickle": ("graph", lambda _f, m, _e: m["runtimes"][0].update(trust="pickle")),
    "a graph of another framework": ("graph", lambda _f, m, _e: m["runtimes"][0].update(framework="scikit-learn")),
    "a runtime added": ("graph", adds_a_runtime),
    "a pickle next to the graph": ("graph", adds_a_file("runtimes/native/model.pkl")),
    "a pickle below the graph": ("graph", adds_a_file("runtimes/native/more/code.pkl")),
    "a pickle of no use": ("graph", adds_a_file("code/code.pkl")),
    "a runtime of no use": ("graph", adds_a_file("runtimes/more/model.pkl")),
    "preprocessing hidden": ("behind", hides_the_preprocessing),
    "preprocessing forgotten": ("behind", forgets_the_preprocessing),
    "rules forgotten": ("ruled", forgets_the_rules),
    "a file next to a rule": ("ruled", adds_a_file("rules/half/more.pkl")),
}


def forge(honest: rw.Package, lie: Lie, folder: Path, mark: Path) -> str:
    """Write the forged package to `folder`; return its digest. Its pickle writes the file `mark`."""
    manifest = take_apart(file_of(honest), folder)
    lie(folder, manifest, pickle.dumps(Marking(mark)))
    return f"sha256:{seal(folder, manifest)}"
