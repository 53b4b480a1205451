"""The exception with which readers of single values report an invalid one."""

from __future__ import annotations


class ProblemError(Exception):
    """A value that does not fit its field. The caller, which knows the column and row, raises InvalidInput.

    Attributes:
        code: code of the InvalidInput. problem: what was expected and what came, without column and row.
    """

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
