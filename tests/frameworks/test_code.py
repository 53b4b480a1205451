"""The user's own code travels with the package: it runs where the project is not, and what cannot travel is named."""

from __future__ import annotations

import importlib
import importlib.metadata
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadworthy.foundation.errors import PackageRefused, PackError
from roadworthy.frameworks.code import _owners, load_callable, load_object, save_callable, save_object
from roadworthy.frameworks.framework import ModelFolder

LOCK = threading.Lock()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's own modules, on sys.path as in a notebook."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, sources: dict[str, str]) -> None:
    """Files by their path in the project."""
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    importlib.invalidate_caches()


def elsewhere(folder: Path, expression: str) -> str:
    """What `expression` of `f`, the callable saved in `folder`, prints in a process without the project."""
    source = (
        "import sys; from pathlib import Path; from roadworthy.frameworks.code import load_callable; "
        "from roadworthy.frameworks.framework import ModelFolder; "
        f"f = load_callable(ModelFolder(Path(sys.argv[1]))); print({expression})"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", source, str(folder)], check=False, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_modules_of_the_users_own_travel_along(project: Path, tmp_path: Path) -> None:
    """An importable function, with what it uses from other modules of the project, relative and absolute."""
    clean = "import constants\nfrom . import inner\n\ndef clean(x):\n    return inner.twice(x) + constants.ONE\n"
    inner = "def twice(x):\n    return 2 * x\n"
    write(project, {"mine/__init__.py": "", "mine/clean.py": clean, "mine/inner.py": inner, "constants.py": "ONE = 1\n"})
    (tmp_path / "saved").mkdir()
    saved = save_callable(importlib.import_module("mine.clean").clean, tmp_path / "saved")
    assert (saved.carries_code, saved.trust) == (True, "pickle")
    assert elsewhere(tmp_path / "saved", "f(20)") == "41"


def test_functions_of_a_notebook_travel_along(tmp_path: Path) -> None:
    """A closure, a lambda and an object with __call__ that no other process can import."""
    offset = 5

    def shifted(x: int) -> int:
        return x + offset

    class Scaler:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def __call__(self, x: int) -> int:
            return x * self.factor

    for number, (function, answer) in enumerate([(shifted, "15"), (lambda x: x - offset, "5"), (Scaler(3), "30")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_callable(function, folder)
        assert elsewhere(folder, "f(10)") == answer


def test_two_packages_with_modules_of_one_name_live_together(project: Path, tmp_path: Path) -> None:
    """During a switch both versions answer, each with its own module, and neither is left in sys.modules."""
    loaded = []
    for version in (1, 2):
        write(
            project,
            {"features.py": f"VERSION = {version}\n\nclass F:\n    def version(self):\n        return VERSION\n"},
        )
        sys.modules.pop("features", None)
        for cached in project.rglob("*.pyc"):
            cached.unlink()
        module = importlib.import_module("features")
        folder = tmp_path / f"v{version}"
        folder.mkdir()
        save_callable(module.F().version, folder)
        loaded.append(folder)
    sys.modules.pop("features")
    first, second = (load_callable(ModelFolder(folder)) for folder in loaded)
    assert (first(), second(), first()) == (1, 2, 1)
    assert "features" not in sys.modules


def test_a_module_that_was_left_behind_is_named(project: Path, tmp_path: Path) -> None:
    """A pickle that needs a module which is not here says which."""
    write(project, {"mymodule.py": "class Thing:\n    pass\n"})
    path = tmp_path / "code.pkl"
    path.write_bytes(pickle.dumps(importlib.import_module("mymodule").Thing()))
    sys.path.remove(str(project))
    del sys.modules["mymodule"]
    with pytest.raises(PackageRefused, match="mymodule") as caught:
        load_object(path.read_bytes())
    assert caught.value.code == "code-not-loadable"


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x80\x05.", pickle.dumps(5)])
def test_damaged_code_is_refused(tmp_path: Path, data: bytes) -> None:
    """Whatever the bytes are, and also when they are no function."""
    (tmp_path / "code.pkl").write_bytes(data)
    with pytest.raises(PackageRefused) as caught:
        load_callable(ModelFolder(tmp_path))
    assert caught.value.code == "code-not-loadable"


def uses_a_lock(x: Any) -> Any:
    """A function with a global that cannot be pickled."""
    with LOCK:
        return x


def test_what_cannot_be_pickled_is_named(tmp_path: Path) -> None:
    """A global, a closed-over variable, an attribute, and one used by a function that is used."""
    handle = (tmp_path / "open").open("w")

    def writes(x: Any) -> Any:
        handle.write("x")
        return x

    def calls(x: Any) -> Any:
        return uses_a_lock(x)

    class Model:
        def __init__(self) -> None:
            self.connection = handle

        def __call__(self, x: Any) -> Any:
            return x

    for function, name in ((uses_a_lock, "LOCK"), (writes, "handle"), (calls, "LOCK"), (Model(), "connection")):
        with pytest.raises(PackError, match=f"'{name}'") as caught:
            save_callable(function, tmp_path)
        assert caught.value.code == "unpicklable-model"
        assert caught.value.hint
    handle.close()


def test_the_owner_of_each_module_is_the_one_that_python_finds() -> None:
    """Of every module that any installed distribution holds."""
    found = {top: names[0] for top, names in importlib.metadata.packages_distributions().items()}
    owners = _owners(tuple(sys.path))
    assert len(found) > 50
    assert {top: owners[top].metadata["Name"] for top in found} == found


def test_requirements_are_the_distributions_that_are_imported(tmp_path: Path) -> None:
    """Those of classes and functions inside, not those whose name is by chance a text in the data."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.eye(2))
    scaler.columns = ["rich", "click", "pytest", "polars"]
    assert save_object(scaler, tmp_path / "a") == ("numpy", "scikit-learn")
    assert save_object({"a": np.eye(2), "b": np.eye(2)}, tmp_path / "b") == ("numpy",)

    def computes(x: Any) -> Any:
        import pandas as pd

        return pd.DataFrame(np.asarray(x))

    assert {"numpy", "pandas"} <= set(save_object(computes, tmp_path / "c"))


def test_the_same_object_gives_the_same_bytes(tmp_path: Path) -> None:
    """An estimator without code of the user's own is saved alike twice, so that its package has one digest."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])
    save_object(model, tmp_path / "a")
    save_object(model, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_users_own_registrations_for_pickling_are_kept(project: Path, tmp_path: Path) -> None:
    """What was registered with cloudpickle before stays registered after saving."""
    import cloudpickle

    write(project, {"registered.py": "def f():\n    return 1\n"})
    module = importlib.import_module("registered")
    cloudpickle.register_pickle_by_value(module)
    save_object(module.f, tmp_path / "a")
    assert "registered" in cloudpickle.list_registry_pickle_by_value()
    cloudpickle.unregister_pickle_by_value(module)
