"""The rooms of the library, read from its files: who imports whom, and how large they are.

`python Testing/Python/rooms.py` brings the tables of docs/architecture.md up to date.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MODULE_FOLDER = Path(__file__).parents[2] / "VoxelMorphRegistration"
LIBRARY = "VoxelMorphRegistrationLib"
# From the top; a room may use those on the steps below its own, not those beside it.
STAIRCASE = (
    ("VoxelMorphRegistration", "__main__", "geometry"),
    ("panel", "commands"),
    ("batch",),
    ("worker", "mrml"),
    ("training", "results"),
    ("registration",),
    ("transforms", "trust"),
    ("refinement", "alignment"),
    ("fields",),
    ("networks", "images"),
    ("apart", "streams"),
    ("errors",),
)


def library_files() -> list[Path]:
    return sorted((MODULE_FOLDER / LIBRARY).rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(MODULE_FOLDER / LIBRARY).with_suffix("").parts
    return parts[0]


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """Absolute names of the modules that a file imports, and whether for types only."""
    package = path.relative_to(MODULE_FOLDER).with_suffix("").parts[:-1]
    found = []
    for node, for_types in _statements(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            found += [(alias.name, for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            found += [(f"{base}.{alias.name}", for_types) for alias in node.names]
    return found


def _statements(body: list, for_types: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All statements with those inside them, and whether they are for type checkers only."""
    for node in body:
        yield node, for_types
        only = for_types or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        yield from _statements(getattr(node, "body", []), only)
        for part in ("orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, part, []), for_types)


def module_of(name: str, modules: set[str]) -> str | None:
    """The file of the library that an imported name comes from."""
    while name:
        if name in modules:
            return name
        name = name.rpartition(".")[0]
    return None


def arrows() -> dict[str, set[str]]:
    """For each file of the library, the files that it imports when it runs."""
    names = {}
    for path in library_files():
        parts = path.relative_to(MODULE_FOLDER).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    known = set(names)
    return {
        module: {
            target
            for name, for_types in imports(path)
            if not for_types and (target := module_of(name, known)) not in (None, LIBRARY, module)
        }
        for module, path in names.items()
    }


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def tables() -> str:
    """In Markdown: files and lines of each room, from the top, and which rooms it imports from; the longest files."""
    files = {path: room_of(path) for path in library_files() if room_of(path) != "__init__"}
    count, lines = Counter(files.values()), Counter()
    for path, room in files.items():
        lines[room] += _lines(path)
    uses: dict[str, Counter] = {room: Counter() for room in count}
    for module, targets in arrows().items():
        parts = module.split(".")
        if len(parts) > 1 and parts[1] in uses:
            room = parts[1]
            uses[room].update(target.split(".")[1] for target in targets if target.split(".")[1] != room)
    order = [room for step in STAIRCASE for room in step if room in count]
    rows = ["| room | files | lines | imports from (how many times) |", "|---|---|---|---|"]
    for room in order:
        named = ", ".join(f"{other} {uses[room][other]}" for other in order if uses[room][other])
        rows.append(f"| `{room}` | {count[room]} | {lines[room]:,} | {named or 'none'} |")
    rows.append(f"| all | {sum(count.values())} | {sum(lines.values()):,} | |")
    entry = MODULE_FOLDER / "VoxelMorphRegistration.py"
    longest = sorted([entry, *files], key=_lines, reverse=True)[:8]
    rows += ["", "| longest files | lines |", "|---|---|"]
    rows += [f"| `{path.relative_to(MODULE_FOLDER).as_posix()}` | {_lines(path)} |" for path in longest]
    return "\n".join(rows)


def update(page: Path) -> None:
    """Put the tables of today in place of those of the page."""
    text = page.read_text(encoding="utf-8")
    head, rest = text.split("| room | files |", 1)
    after = rest.split("| longest files |", 1)[1].partition("\n\n")[2]
    page.write_text(f"{head}{tables()}\n" + (f"\n{after}" if after else ""), encoding="utf-8")


if __name__ == "__main__":
    update(MODULE_FOLDER.parent / "docs" / "architecture.md")
