"""Fixtures of the runner processes' tests."""

from tests.runtime.runners.isolated.runners import start_runner

__all__ = ["start_runner"]
