"""The user's own Python code, written so that it can be read back elsewhere without the user's project.

Objects are pickled; what is defined in a notebook, in `__main__` or in a module of the user's own goes in by value
(cloudpickle), what comes from an installed distribution by name. By value, because two versions of a package may carry modules
of one name, and both must live in one process during a switch. `python.py`, `scikit_learn.py` and `package/` call this.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import io
import pickle
import pickletools
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from roadworthy.foundation.errors import PackageRefused, PackError
from roadworthy.frameworks.framework import CODE, ModelFiles, Nature, Saved, expect_only

CODE_FILE = "code.pkl"
_PROTOCOL = 5
_ALWAYS_HERE = frozenset({"roadworthy", "builtins", "__main__", "__mp_main__"})


def save_callable(function: Callable[..., Any], folder: Path) -> Saved:
    """Write `function` into the empty `folder`; `load_callable` reads it back.

    Raises:
        PackError: "unpicklable-model", naming the part that could not be pickled, if it can be found.
    """
    distributions = save_object(function, folder / CODE_FILE)
    return Saved({}, distributions, carries_code=CODE.carries_code, trust=CODE.trust)


def examine_callable(files: ModelFiles) -> Nature:
    """The files of `save_callable` are code, whatever the pickle holds.

    Raises:
        FormatMismatch: there are other files.
    """
    expect_only(files, [CODE_FILE])
    return CODE


def load_callable(files: ModelFiles) -> Callable[..., Any]:
    """The function that `save_callable` wrote. Executes the package's code: call it only once the package is allowed.

    Raises:
        PackageRefused: "code-not-loadable".
    """
    loaded = load_object(files.read(CODE_FILE))
    if not callable(loaded):
        raise PackageRefused("the package's code is not a function", code="code-not-loadable")
    return loaded  # type: ignore[no-any-return]  # pickle returns Any


def save_object(value: object, path: Path) -> tuple[str, ...]:
    """Pickle `value` with the user's own code by value; return the names of the distributions that reading it back imports.

    Raises:
        PackError: "unpicklable-model".
    """
    import cloudpickle

    with _own_modules_by_value(cloudpickle):
        try:
            data = cloudpickle.dumps(value, protocol=_PROTOCOL)
        except Exception as error:  # pickling runs any object's own code, which may raise anything
            raise PackError(
                f"the model or its code cannot be saved: {_offender(cloudpickle, value)}",
                code="unpicklable-model",
                hint="open files, connections, locks and sessions inside the function, not outside it",
            ) from error
    path.write_bytes(data)
    return _distributions(data)


def load_object(data: bytes) -> Any:
    """Read back what `save_object` wrote. Executes what the bytes say.

    Raises:
        PackageRefused: "code-not-loadable", naming a module that is missing.
    """
    try:
        return pickle.loads(data)  # noqa: S301  (only after the package's digest was allowed)
    except ModuleNotFoundError as error:
        raise PackageRefused(
            f"the package needs the module {error.name!r}, which is not installed here",
            code="code-not-loadable",
            hint="install it here, or import it at the top of your own module before packing so that it is locked",
            facts={"module": error.name},
        ) from error
    except Exception as error:  # unpickling runs any object's own code, which may raise anything
        raise PackageRefused(
            "the package's code cannot be loaded here",
            code="code-not-loadable",
            hint="pack the model again with the libraries that are installed here",
        ) from error


@contextmanager
def _own_modules_by_value(cloudpickle: Any) -> Iterator[None]:
    known = cloudpickle.list_registry_pickle_by_value()
    loaded = list(sys.modules.items())
    registered = [module for name, module in loaded if name not in known and is_own_module(name, module)]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def is_own_module(name: str, module: ModuleType | None) -> bool:
    """Whether a module is the user's own: a file outside the standard library and outside every installed distribution."""
    file = getattr(module, "__file__", None)
    if name.partition(".")[0] in _ALWAYS_HERE or not isinstance(file, str) or not file.endswith(".py"):
        return False
    if getattr(module, "__name__", None) != name:
        return False
    return not _is_installed(Path(file).parent, tuple(sys.path))


@cache
def _is_installed(folder: Path, search_path: tuple[str, ...]) -> bool:
    place = folder.resolve()
    return any(place.is_relative_to(root) for root in _installed_roots(search_path))


@cache
def _installed_roots(search_path: tuple[str, ...]) -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.update(path for path in search_path if Path(path).name in ("site-packages", "dist-packages"))
    return tuple(Path(root).resolve() for root in roots)


@cache
def _owners(_search_path: tuple[str, ...]) -> Mapping[str, importlib.metadata.Distribution]:
    """The installed distribution of each top-level module, the first where several have one. This is what Python's
    `packages_distributions` finds, which takes a second where a hundred distributions are installed."""
    owners: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        for top in _top_levels(distribution):
            owners.setdefault(top, distribution)
    return owners


def _top_levels(distribution: importlib.metadata.Distribution) -> set[str]:
    """Names of a distribution's top-level modules: as it declares them, otherwise from its list of files."""
    if declared := (distribution.read_text("top_level.txt") or "").split():
        return set(declared)
    record = distribution.read_text("RECORD")
    if record is None:  # installed by something older than wheels
        paths = {path.as_posix() for path in distribution.files or ()}
    else:
        paths = {line.partition(",")[0] for line in record.splitlines()}
    parts = {path.partition("/")[:2] for path in paths}
    return {first if slash else inspect.getmodulename(first) or "" for first, slash in parts}


def _offender(cloudpickle: Any, value: object, depth: int = 8) -> str:
    """Which part of a function or an object cannot be pickled, in words: the innermost that has a name."""
    for name, part in _parts(value):
        try:
            cloudpickle.dumps(part, protocol=_PROTOCOL)
        except Exception:  # noqa: BLE001  (this is the search for what raises)
            inner = _offender(cloudpickle, part, depth - 1) if depth else ""
            return inner or f"{name!r}, of type {type(part).__name__}, cannot be pickled"
    return "" if depth < 8 else f"an object inside {type(value).__name__} cannot be pickled"


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, FunctionType):
        names = _names_used(value.__code__)
        yield from ((name, value.__globals__[name]) for name in sorted(names & value.__globals__.keys()))
        cells = value.__closure__ or ()
        yield from ((n, c.cell_contents) for n, c in zip(value.__code__.co_freevars, cells, strict=True))
    elif hasattr(value, "__dict__"):
        yield from vars(value).items()


def _names_used(code: CodeType) -> set[str]:
    """Global names that a function's code, or a function inside it, may look up."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names_used, inner))


def _distributions(data: bytes) -> tuple[str, ...]:
    """The installed distributions that reading a pickle back, or running what it holds, may import."""
    tops = {name.partition(".")[0] for name in _named_modules(data)} - _ALWAYS_HERE
    owners = _owners(tuple(sys.path))
    return tuple(sorted({owners[top].metadata["Name"] for top in tops if top in owners}))


def _named_modules(data: bytes) -> Iterator[str]:
    """Modules that a pickle names, without loading it: those of its classes and functions (the text before the name that
    STACK_GLOBAL takes), and those that its functions hold or import, which cloudpickle keeps as texts of their own."""
    memo: list[str | None] = []
    pushed: list[str | None] = [None, None]  # the last two texts on the stack
    by_value = False
    texts: set[str] = set()
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        if opcode.name == "STACK_GLOBAL":
            yield pushed[0] or ""
            by_value = by_value or pushed[0] == "cloudpickle.cloudpickle"
            pushed = [None, None]
        elif opcode.name == "MEMOIZE":
            memo.append(pushed[1])
        elif opcode.name != "FRAME":
            text = memo[int(argument or 0)] if opcode.name in ("BINGET", "LONG_BINGET") else argument
            pushed = [pushed[1], text if isinstance(text, str) else None]
            texts.update(text for text in pushed if text is not None)
    if by_value:
        yield from (text for text in texts if isinstance(sys.modules.get(text), ModuleType))
