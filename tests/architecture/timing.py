"""Finds code that makes a test depend on the speed of the machine: assertions about elapsed time, and sleeps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

CLOCKS = frozenset(
    {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns", "process_time", "thread_time"}
)
"""Functions of `time` that return a moment; a moment plus or minus something is a span."""
SPANS = frozenset({"elapsed", "took_ms", "elapsed_s", "elapsed_ms", "total_seconds"})
"""Names of values that are spans, whatever their origin."""
_FILLS = frozenset({"append", "add", "extend", "insert", "update", "setdefault"})
_PURE = frozenset({"abs", "float", "int", "max", "min", "percentile", "round", "set", "sorted", "sum", "zip"})
"""Functions whose result is a span if an argument is; other functions may take deadlines without returning a span."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Finding:
    """A line, and what is wrong with it."""

    line: int
    what: str


def findings(source: str) -> list[Finding]:
    """All findings in a file, in the order of its lines."""
    if not any(word in source for word in ("sleep", "time(", *CLOCKS - {"time"}, *SPANS)):
        return []
    tree = ast.parse(source)
    return sorted({*_sleeps(tree), *_assertions(tree)}, key=lambda finding: finding.line)


def _sleeps(tree: ast.Module) -> Iterator[Finding]:
    bare = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "asyncio")
        for alias in node.names
        if alias.name == "sleep"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_sleep(node.func, bare) and not _is_zero(node):
            yield Finding(node.lineno, "sleeps")


def _is_sleep(called: ast.expr, bare: set[str]) -> bool:
    if isinstance(called, ast.Attribute):
        return called.attr == "sleep" and isinstance(called.value, ast.Name) and called.value.id in ("time", "asyncio")
    return isinstance(called, ast.Name) and called.id in bare


def _is_zero(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0


def _assertions(tree: ast.Module) -> Iterator[Finding]:
    known = _Known(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            compared = (part for part in ast.walk(node.test) if isinstance(part, ast.Compare))
            if any(known.is_span(operand) for each in compared for operand in (each.left, *each.comparators)):
                yield Finding(node.lineno, "asserts elapsed time")


class _Known:
    """The names in a file that hold moments and spans, regardless of scope."""

    def __init__(self, tree: ast.Module) -> None:
        self._moments: set[str] = set()
        self._spans: set[str] = set(SPANS)
        kinds = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.AugAssign, ast.For, ast.comprehension, ast.Call)
        nodes = [node for node in ast.walk(tree) if isinstance(node, (*kinds, ast.FunctionDef, ast.AsyncFunctionDef))]
        before = -1
        while before != (before := len(self._moments) + len(self._spans)):
            for node in nodes:
                self._learn(node)

    def _learn(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._bind(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
                self._bind(target, value)
            case ast.AugAssign(target=target, value=value):
                self._bind(target, value)
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                self._bind(target, value)
            case ast.Call(func=ast.Attribute(attr=attr, value=ast.Name(id=name)), args=args) if attr in _FILLS:
                if any(self.is_span(each) for each in args):
                    self._spans.add(name)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if self._returns_span(node):
                self._spans.add(node.name)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case ((ast.Tuple(elts=names) | ast.List(elts=names)), (ast.Tuple(elts=values) | ast.List(elts=values))) if len(
                names
            ) == len(values):
                for name, each in zip(names, values, strict=True):
                    self._bind(name, each)
            case _:
                names = {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
                if self.is_span(value):
                    self._spans |= names
                elif self._is_moment(value):
                    self._moments |= names

    def _returns_span(self, function: _Function) -> bool:
        return any(
            isinstance(part, ast.Return) and part.value is not None and self.is_span(part.value) for part in ast.walk(function)
        )

    def _is_moment(self, value: ast.expr) -> bool:
        match value:
            case ast.Name(id=name):
                return name in self._moments
            case ast.Call(func=ast.Attribute(attr=attr, value=ast.Name(id="time"))):
                return attr in CLOCKS
            case ast.Call(func=ast.Attribute(attr="time", value=ast.Name(id="loop"))):
                return True
            case ast.Call(func=ast.Name(id=name), args=[argument, *_]):
                return name in ("perf_counter", "monotonic") or (name in ("int", "float") and self._is_moment(argument))
            case ast.Call(func=ast.Name(id=name)):
                return name in ("perf_counter", "monotonic")
            case ast.BinOp(op=ast.Mult() | ast.Div() | ast.FloorDiv(), left=left):
                return self._is_moment(left)
            case _:
                return False

    def is_span(self, value: ast.expr) -> bool:
        """Whether the expression contains a span."""
        match value:
            case ast.Lambda():
                return self.is_span(value.body)
            case ast.Name(id=name):
                return name in self._spans
            case ast.Attribute(attr=attr) if attr in SPANS:
                return True
            case ast.Call(func=called, args=args):
                pure = isinstance(called, ast.Name) and called.id in _PURE
                return self.is_span(called) or (pure and any(self.is_span(each) for each in args))
            case ast.BinOp(op=ast.Add() | ast.Sub(), left=left, right=right):
                if self._is_moment(left) or self._is_moment(right):
                    return True
        return any(self.is_span(part) for part in ast.iter_child_nodes(value) if isinstance(part, ast.expr))
