"""Conditions on utterances: Python expressions that are evaluated over whole columns at once.

    duration < 20 and speaker != 'x'
    2 < duration <= 15 and (language in ['en', 'de'] or 'Goethe' in text)
    aligned and frames / phones < 40

A condition may contain names of columns, numbers and strings; + - * /; comparisons, also chained; `in` and `not in`
with a list or a longer text; and, or, not, parentheses. Anything else is refused. Python's parser reads the condition,
but nothing is ever executed. Numbers are computed in float64; a number by itself is true if it is not 0.

Shapes: N utterances.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from headrace.store.errors import UsageError

MAX_CHARACTERS = 2000
"""Length of the longest condition that is read."""
Value = Any
"""(N,) array of float64, bool or object (str); or a single float or str."""
Column = Callable[[], np.ndarray]

ARITHMETIC: Mapping[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
}
ORDER: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
EQUALITY: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
CONTAINS = np.frompyfunc(operator.contains, 2, 1)


def evaluate(where: str, columns: Mapping[str, Column], count: int) -> list[tuple[str, np.ndarray]]:
    """Evaluate a condition clause by clause: the clauses are what `and` joins on the outermost level.

    Args:
        columns: name to a function that reads the column: (N,) numbers, or an object array of str. Only columns that
            the condition names are read.
        count: N.
    Returns:
        (text, (N,) bool) of each clause.
    Raises:
        UsageError: it is not a valid condition; the details point to the error.
    """
    text = " ".join(where.splitlines()).strip()
    evaluation = _Evaluation(text, columns)
    try:
        outermost = evaluation.parse()
        with np.errstate(all="ignore"):
            found = [(ast.get_source_segment(text, node) or text, evaluation.condition(node)) for node in outermost]
    except (RecursionError, MemoryError):
        raise UsageError("The condition is nested too deeply to be read: write it with fewer parentheses.") from None
    return [(clause, np.broadcast_to(holds, count)) for clause, holds in found]


class _Evaluation:
    """The evaluation of a condition over a set of columns."""

    def __init__(self, text: str, columns: Mapping[str, Column]) -> None:
        self.text, self.columns = text, columns
        self.read: dict[str, Value] = {}

    def parse(self) -> Sequence[ast.expr]:
        """Return the clauses that `and` joins on the outermost level."""
        if len(self.text) > MAX_CHARACTERS:
            raise UsageError(f"The condition has {len(self.text)} characters; it may have {MAX_CHARACTERS}.")
        try:
            body = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError) as error:
            column = getattr(error, "offset", 0) or len(self.text) + 1
            self.fail(column, "this is not a condition; an example of one: duration < 20")
        return body.values if isinstance(body, ast.BoolOp) and isinstance(body.op, ast.And) else [body]

    def condition(self, node: ast.expr) -> Value:
        """Return where an expression is true: bool, (N,) or a single one."""
        value = self.value(node)
        if _is_text(value):
            self.refuse(node, "this is text and not a condition: compare it with something")
        return np.not_equal(value, 0)

    def number(self, node: ast.expr) -> Value:
        """Return the value of an expression that must not be text."""
        value = self.value(node)
        if _is_text(value):
            self.refuse(node, "this is text where a number is needed")
        return value

    def value(self, node: ast.expr) -> Value:
        """Return the value of any expression."""
        match node:
            case ast.Name():
                return self.column(node)
            case ast.Constant():
                return self.constant(node)
            case ast.BoolOp():
                combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                return combine.reduce(np.broadcast_arrays(*(self.condition(value) for value in node.values)))
            case ast.UnaryOp(op=ast.Not()):
                return np.logical_not(self.condition(node.operand))
            case ast.UnaryOp(op=ast.USub()):
                return np.negative(self.number(node.operand), dtype=np.float64)
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                return ARITHMETIC[type(node.op)](self.number(node.left) + 0.0, self.number(node.right) + 0.0)
            case ast.Compare():
                return self.comparison(node)
        self.refuse(node, "expected a column, a number, a text, + - * /, a comparison, in, and, or, not")

    def column(self, node: ast.Name) -> Value:
        """Return a column, read on first use."""
        if node.id not in self.columns:
            near = difflib.get_close_matches(node.id, self.columns, n=3, cutoff=0.5)
            names = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(sorted(self.columns))}"
            self.refuse(node, f"there is no column {node.id}; {names}")
        if node.id not in self.read:
            column = self.columns[node.id]()
            self.read[node.id] = column if _is_text(column) else column.astype(np.float64)
        return self.read[node.id]

    def constant(self, node: ast.Constant) -> Value:
        """Return a number or a text that stands in the condition."""
        if isinstance(node.value, str):
            return node.value
        if isinstance(node.value, int | float) and abs(node.value) < 1e300:
            return float(node.value)
        self.refuse(node, "this is neither a number nor a text")

    def comparison(self, node: ast.Compare) -> Value:
        """Return where a comparison is true; of a chained one, where all of its comparisons are."""
        terms, holds = [node.left, *node.comparators], np.True_
        for left, op, right in zip(terms, node.ops, terms[1:], strict=False):
            contains = isinstance(op, ast.In | ast.NotIn)
            holds = np.logical_and(holds, self.contains(left, op, right) if contains else self.compare(left, op, right))
        return holds

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Value:
        """Return where two expressions compare as `op` says."""
        a, b = self.value(left), self.value(right)
        if _is_text(a) != _is_text(b):
            kinds = [f"{ast.get_source_segment(self.text, n)} is {_kind(v)}" for n, v in ((left, a), (right, b))]
            self.refuse(right, " and ".join(kinds))
        operation = (EQUALITY if _is_text(a) else EQUALITY | ORDER).get(type(op))
        if operation is None:
            self.refuse(right, f"{_kind(a)} is compared by ==, !=, {'' if _is_text(a) else '<, <=, >, >= '}and in")
        return operation(a, b)

    def contains(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Value:
        """Return where the left expression is one of a list, or part of a longer text; or is not, for `not in`."""
        a = self.value(left)
        if isinstance(right, ast.List | ast.Tuple):
            members = [self.compare(left, ast.Eq(), member) for member in right.elts]
            found = np.logical_or.reduce(np.broadcast_arrays(np.False_, *members))
        else:
            b = self.value(right)
            if not (_is_text(a) and _is_text(b)):
                self.refuse(right, "in takes a list, such as ['a', 'b'], or two texts")
            found = CONTAINS(b, a)
        found = np.asarray(found, bool)
        return ~found if isinstance(op, ast.NotIn) else found

    def refuse(self, node: ast.expr, reason: str) -> NoReturn:
        """Raise a UsageError that points to an expression."""
        start = node.col_offset  # in bytes of UTF-8
        self.fail(len(self.text.encode()[:start].decode()) + 1, reason)

    def fail(self, column: int, reason: str) -> NoReturn:
        """Raise a UsageError that points to a column of the text, counted from 1."""
        raise UsageError(f"The condition cannot be used: {reason}.", self.text, " " * (column - 1) + "^")


def _is_text(value: Value) -> bool:
    return isinstance(value, str) or getattr(value, "dtype", None) == np.dtype(object)


def _kind(value: Value) -> str:
    return "text" if _is_text(value) else "a number"
