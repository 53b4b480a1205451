"""The exception by which the readers of single values report what is wrong with one."""

from __future__ import annotations


class ProblemError(Exception):
    """One value that does not fit its field. The caller knows the column and the row, and turns it into InvalidInput.

    Attributes:
        code: of the InvalidInput. problem: what is wrong, as the end of a sentence about the column.
    """

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
