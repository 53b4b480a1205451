"""A transaction's connection, bound to one project. It adds the project to each statement, so that no query can forget it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVarTuple, overload

import sqlalchemy
from sqlalchemy import Column, CursorResult, Delete, Insert, Select, SelectBase, Table, Update
from sqlalchemy.sql.visitors import iterate

from roadworthy.store.tables import metadata

Ts = TypeVarTuple("Ts")
Statement = Select[*tuple[Any, ...]] | Insert | Update | Delete
_PROJECTS = {table.name: table.c.project for table in metadata.sorted_tables}
Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Connection:
    """Executes statements on the rows of one project.

    Attributes:
        project: its name.
        everywhere: the connection to the rows of all projects, for questions that one project cannot answer.
    """

    def __init__(self, everywhere: sqlalchemy.Connection, project: str) -> None:
        self.everywhere = everywhere
        self.project = project

    @overload
    def execute(self, statement: Select[*Ts], rows: Rows | None = None) -> CursorResult[*Ts]: ...
    @overload
    def execute(self, statement: Insert | Update | Delete, rows: Rows | None = None) -> CursorResult[Any]: ...
    def execute(self, statement: Statement, rows: Rows | None = None) -> CursorResult[Any]:
        """Execute a statement on the project's rows. An inserted row becomes the project's.

        Raises:
            TypeError: the statement contains another query, whose rows this function does not bind.
        """
        return self.everywhere.execute(_bound(statement, self.project), rows)


def _bound(statement: Statement, project: str) -> Statement:
    if isinstance(statement, Insert):
        return statement.values(project=project)
    return statement.where(*(_PROJECTS[name] == project for name in _tables(statement)))


def _tables(statement: Select[*tuple[Any, ...]] | Update | Delete) -> Iterable[str]:
    """The tables that a statement reads or changes."""
    names = dict[str, None]()
    for part in iterate(statement):
        if isinstance(part, Table):
            names[part.name] = None
        elif isinstance(part, Column) and isinstance(part.table, Table):
            names[part.table.name] = None
        elif isinstance(part, SelectBase) and part is not statement:
            raise TypeError("a query of a project cannot contain another query")
    return names
