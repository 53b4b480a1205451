"""The interface of `import roadworthy as rw`: its names exist, and the import is light."""

from __future__ import annotations

import pytest

import roadworthy as rw
from roadworthy.foundation import errors


def test_all_is_sorted_and_complete() -> None:
    """The public names are sorted, unique, and what dir() shows."""
    assert rw.__all__ == sorted(set(rw.__all__))
    assert dir(rw) == rw.__all__


@pytest.mark.parametrize("name", rw.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name is available, and has a docstring if it is ours."""
    value = getattr(rw, name)
    assert name == "__version__" or value.__doc__


def test_unknown_names_are_refused() -> None:
    """A name that is not public raises AttributeError, even if a module of that name could be imported."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rw.nothing  # type: ignore[attr-defined]


def test_errors_are_those_of_the_tree() -> None:
    """The public errors are the raised classes themselves."""
    assert rw.InvalidInput is errors.InvalidInput
    assert issubclass(rw.ProofFailed, rw.PackageError)
    assert issubclass(rw.PackageError, rw.RoadworthyError)
