"""The small faults that a file can be given: signs, operators, comparisons, conditions, whole numbers, axes.

Nothing that cannot matter to a user is touched: annotations, sentences of errors and warnings, what a decorator or an
import says, `strict` of a zip.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SIGNS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
# What these calls are told is text for a reader.
TELLS = ("warn", "debug", "info", "log", "print")
# Keywords that guard against a programmer's mistake, or only say where a warning points to.
GUARDS = ("strict", "stacklevel", "maxsize", "daemon")


@dataclass(frozen=True)
class Fault:
    """The lines `before` of a file of the library, at `line` or wherever else they stand alone, become `after`."""

    file: str
    line: int
    before: str
    after: str

    def applied(self, source: str) -> tuple[int, str] | None:
        """The line where it is and the file with it; None when the file has no such lines."""
        places, at = [], source.find(self.before)
        while at >= 0:
            places.append(at)
            at = source.find(self.before, at + 1)
        if not places:
            return None
        lines = [source.count("\n", 0, place) + 1 for place in places]
        line, place = min(zip(lines, places, strict=True), key=lambda pair: abs(pair[0] - self.line))
        first = next(
            i for i, pair in enumerate(zip(self.before, self.after + "\0", strict=False)) if pair[0] != pair[1]
        )
        line += self.before.count("\n", 0, first)
        return line, source[:place] + self.after + source[place + len(self.before) :]

    def to_dict(self) -> dict:
        return asdict(self)


def faults(path: Path, name: str) -> Iterator[Fault]:
    """Every fault of the file, which the library calls `name`."""
    text = path.read_text()
    source = text.encode()
    starts = [0]
    for row in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))

    def place(node: ast.AST, end: bool = False) -> int:
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)
        return starts[line - 1] + column

    def fault(start: int, end: int, new: str) -> Fault:
        a = source.rfind(b"\n", 0, start) + 1
        b = source.find(b"\n", end)
        b = len(source) if b < 0 else b
        changed = source[a:start] + new.encode() + source[end:b]
        return Fault(name, source.count(b"\n", 0, start) + 1, source[a:b].decode(), changed.decode())

    def between(left: ast.AST, right: ast.AST, kind: type) -> Iterator[Fault]:
        old, new = SIGNS.get(kind, ("", ""))
        at = source.find(old.encode(), place(left, True), place(right)) if old else -1
        if at >= 0:
            yield fault(at, at + len(old), new)

    tree = ast.parse(text)
    left_out = _left_out(tree)
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            a, b, c, d = place(node.left), place(node.left, True), place(node.right), place(node.right, True)
            swapped = source[c:d] + source[b:c] + source[a:b]
            if source[a:b] != source[c:d]:
                yield fault(a, d, swapped.decode())
        elif isinstance(node, ast.BinOp):
            yield from between(node.left, node.right, type(node.op))
        elif isinstance(node, ast.BoolOp):
            yield from between(node.values[0], node.values[1], type(node.op))
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, right, op in zip(sides, sides[1:], node.ops, strict=False):
                yield from between(left, right, type(op))
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            yield fault(place(node), place(node, True), str(node.value + 1))
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            yield fault(place(node), place(node, True), str(not node.value))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
            yield fault(place(node), place(node.operand), "")
        elif isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(
            node.test, (ast.Compare, ast.Constant)
        ):
            a, b = place(node.test), place(node.test, True)
            yield fault(a, b, f"not ({source[a:b].decode()})")


def _left_out(tree: ast.AST) -> set[int]:
    """The nodes, by id, that are types, text for a reader, or a matter of imports."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        roots += [part for key in ("annotation", "returns") if (part := getattr(node, key, None)) is not None]
        roots += getattr(node, "decorator_list", [])
        if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr)):
            roots.append(node)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called.lstrip("_").startswith(TELLS):
                roots.append(node)
            roots += [word for word in node.keywords if word.arg in GUARDS]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            roots += node.body
        elif isinstance(node, ast.Assign) and any(getattr(t, "id", "").endswith("__") for t in node.targets):
            roots.append(node)
    return {id(part) for root in roots for part in ast.walk(root)}


def reached_by(tree: ast.AST, line: int) -> tuple[range | None, set[str]]:
    """What runs when a fault of this line matters: lines of a function, or (None, names) outside of functions.

    The lines are those of the innermost statement, or of the body where the line is in the head of the function.
    names: those that the statement gives a value.
    """
    around = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= line <= n.end_lineno]
    functions = [n for n in around if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    if functions:
        function = max(functions, key=lambda node: node.lineno)
        if line < function.body[0].lineno:
            return range(function.body[0].lineno, function.end_lineno + 1), set()
        inner = max(around, key=lambda node: (node.lineno, -node.end_lineno))
        body = getattr(inner, "body", None)
        return range(inner.lineno, max(body[0].lineno, line + 1) if body else inner.end_lineno + 1), set()
    names = set()
    for node in around:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return None, names
