"""Fixtures of the runner processes' tests."""

from tests.runtime.apart.runners import start_runner

__all__ = ["start_runner"]
