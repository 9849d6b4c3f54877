"""Small faults put into the library one at a time, and whether the tests of their room notice.

    python Testing/Mutation/mutate.py images fields --count 20 --seed 1

Works on a copy of the tree, so that nothing is left behind. Each fault is one of a sign, an operator, a comparison, a
condition, a whole number or an axis. A fault survives when the tests of its room still pass. Survivors are printed as
file, line, before and after; the last line counts them. Not part of the test run: it takes minutes a fault.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path("VoxelMorphRegistration/VoxelMorphRegistrationLib")
ROOMS = ("images", "fields", "networks", "registration", "refinement", "alignment", "mrml", "worker", "results")
SWAPS = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "/",
    ast.MatMult: "@ -1 *",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.And: "or",
    ast.Or: "and",
}
SIGNS = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.MatMult: "@",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.And: "and",
    ast.Or: "or",
}


@dataclass(frozen=True)
class Fault:
    """Text from `start` to `end`, in bytes of the file, replaced by `text`."""

    path: Path
    line: int
    start: int
    end: int
    text: str


def offsets(source: bytes) -> list[int]:
    """Where each line begins, in bytes."""
    found = [0]
    for line in source.splitlines(keepends=True):
        found.append(found[-1] + len(line))
    return found


def faults(path: Path) -> Iterator[Fault]:
    """Every fault that this file can be given, but in annotations and texts of messages."""
    source = path.read_bytes()
    starts = offsets(source)

    def place(node: ast.AST, end: bool = False) -> int:
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)
        return starts[line - 1] + column

    def between(left: ast.AST, right: ast.AST, kind: type) -> Fault | None:
        a, b = place(left, True), place(right)
        sign = SIGNS.get(kind)
        at = source.find(sign.encode(), a, b) if sign else -1
        return None if at < 0 else Fault(path, left.end_lineno, at, at + len(sign), SWAPS[kind])

    tree = ast.parse(source)
    annotations = {
        id(part)
        for node in ast.walk(tree)
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if note is not None
        for part in ast.walk(note)
    }
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        fault = None
        if isinstance(node, ast.BinOp):
            fault = between(node.left, node.right, type(node.op))
        elif isinstance(node, ast.BoolOp):
            fault = between(node.values[0], node.values[1], type(node.op))
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            fault = between(node.left, node.comparators[0], type(node.ops[0]))
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            fault = Fault(path, node.lineno, place(node), place(node, True), str(node.value + 1))
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            fault = Fault(path, node.lineno, place(node), place(node, True), str(not node.value))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
            fault = Fault(path, node.lineno, place(node), place(node.operand), "")
        elif isinstance(node, (ast.If, ast.IfExp)) and not isinstance(node.test, ast.Compare):
            a, b = place(node.test), place(node.test, True)
            fault = Fault(path, node.lineno, a, b, f"not ({source[a:b].decode()})")
        if fault is not None:
            yield fault


def survives(tree: Path, fault: Fault, tests: list[str], seconds: float) -> bool:
    """Whether the tests pass with the fault. A run that takes longer than `seconds` counts as noticed."""
    target = tree / fault.path.relative_to(ROOT)
    source = target.read_bytes()
    target.write_bytes(source[: fault.start] + fault.text.encode() + source[fault.end :])
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=tree, capture_output=True, timeout=seconds, check=False)
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        target.write_bytes(source)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", choices=ROOMS, metavar="ROOM", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--count", type=int, default=20, help="faults a room (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--seconds", type=float, default=900.0, help="the longest run of the tests (default: 900)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        skip = shutil.ignore_patterns(".git", "__pycache__", ".venv*", "*.ckpt")
        shutil.copytree(ROOT, tree, ignore=skip)
        made = left = 0
        for room in arguments.rooms:
            known = [fault for path in sorted((ROOT / LIBRARY / room).rglob("*.py")) for fault in faults(path)]
            chosen = random.Random(f"{arguments.seed} {room}").sample(known, min(arguments.count, len(known)))
            survivors = 0
            for fault in chosen:
                made += 1
                if survives(tree, fault, [f"Testing/Python/{room}"], arguments.seconds):
                    survivors += 1
                    source = fault.path.read_bytes()
                    before = source[fault.start : fault.end].decode()
                    name = fault.path.relative_to(ROOT / LIBRARY)
                    line = source.splitlines()[fault.line - 1].decode().strip()
                    print(f"survived  {name}:{fault.line}  {before!r} -> {fault.text!r}  in: {line}", flush=True)
            left += survivors
            print(f"{room}: {survivors} of {len(chosen)} survived", flush=True)
        print(f"{made - left} of {made} faults were noticed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
