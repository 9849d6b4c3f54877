"""Collects the sentences that worker and library say, for the panel to translate: panel/texts.py.

    python Testing/Texts/collect_texts.py [--check]

The library knows no Slicer and speaks English, with values put into its sentences. The panel translates a sentence
where it shows it: by the template that it was made from. Slicer's translation tools find templates as literal texts of
`_()`, so this writes them down. Taken are all texts of errors, and what else is a sentence, as warnings and verdicts:
at least three words that begin with a capital, a quote or a value and end with a full stop, or go on.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "VoxelMorphRegistration/VoxelMorphRegistrationLib"
OUTPUT = LIBRARY / "panel/texts.py"
# Rooms whose texts never reach the panel: it has texts of its own, and runs no command and no training.
LEFT_OUT = ("panel", "commands", "training", "transforms")
_HEAD = '''"""The sentences of worker and library as templates, for translation. Made by collect_texts.py."""

# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from collections.abc import Callable


def templates(_: Callable[[str], str]) -> tuple[str, ...]:
    """All of them through a function that translates. {name} stands for a value."""
    return (
'''


def template_of(node: ast.expr) -> tuple[str, int] | None:
    """The template of a text and how many values it has; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("{", "{{").replace("}", "}}"), 0
    if not isinstance(node, ast.JoinedStr):
        return None
    parts, names = [], []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value).replace("{", "{{").replace("}", "}}"))
        elif isinstance(part, ast.FormattedValue):
            names.append(_name_of(part.value, names))
            parts.append("{" + names[-1] + "}")
    return "".join(parts), len(names)


def _name_of(node: ast.expr, taken: list[str]) -> str:
    """A name for a value: of the variable or attribute, else "value"; numbered where it is taken."""
    while isinstance(node, (ast.Call, ast.Subscript, ast.Starred, ast.BinOp, ast.UnaryOp)):
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.BinOp):
            node = node.right
        elif isinstance(node, ast.UnaryOp):
            node = node.operand
        else:
            node = node.value
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "value"
    name = {"GetName": "name", "join": "list", "str": "value", "len": "count", "max": "value"}.get(name, name).strip(
        "_"
    )
    found, number = name, 2
    while found in taken:
        found, number = f"{name}{number}", number + 1
    return found


def has_words(template: str) -> bool:
    """Whether there is text of its own to know it by: one of values alone would fit everything."""
    return len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{[^{}]*\}", "", template))) >= 2


def is_sentence(template: str) -> bool:
    words = re.sub(r"\{[^{}]*\}", "X", template)
    begins = re.match(r"""["'(]?[A-Z]""", words)
    ends = words.rstrip().endswith((".", "?", ":")) or words.endswith(" ")
    return bool(begins) and ends and len(words.split()) >= 3 and bool(re.search(r"[a-z]{3}", words))


def raised_text(node: ast.AST) -> ast.expr | None:
    """What an error of this library is raised with; errors that are caught within it say nothing to a user."""
    error = node.exc if isinstance(node, ast.Raise) else None
    name = error.func.id if isinstance(error, ast.Call) and isinstance(error.func, ast.Name) else ""
    if not name.endswith("Error") or hasattr(builtins, name) or name == "ProtocolError":
        return None
    assert isinstance(error, ast.Call)
    return error.args[0] if error.args else None


def _docstrings(tree: ast.AST) -> set[int]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr)
    }


def _is_looked_up(node: ast.AST) -> bool:
    """Whether it is a text of the page of a report, which panel/report_words.py translates."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "words.text"


def collected() -> list[str]:
    """The templates, sorted, each once."""
    found: set[str] = set()
    for path in sorted(LIBRARY.rglob("*.py")):
        if path.relative_to(LIBRARY).parts[0] in LEFT_OUT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = _docstrings(tree)
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if _is_looked_up(node):
                skipped.update(id(part) for part in ast.walk(node))
            if isinstance(node, ast.JoinedStr):
                # Its constant parts are no texts of their own.
                skipped.update(id(part) for part in node.values)
            text = raised_text(node)
            made = template_of(node if text is None else text) if isinstance(node, ast.expr) or text else None
            if made is not None and has_words(made[0]) and (text is not None or is_sentence(made[0])):
                found.add(made[0])
    return sorted(found)


def written(templates: list[str]) -> str:
    """The file."""
    lines = (f"        _({json.dumps(template, ensure_ascii=False)}),\n" for template in templates)
    return _HEAD + "".join(lines) + "    )\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only tell whether the file is as it should be")
    options = parser.parse_args(arguments)
    text = written(collected())
    if options.check:
        same = OUTPUT.read_text(encoding="utf-8") == text
        print("as it should be" if same else "run Testing/Texts/collect_texts.py again")
        return 0 if same else 1
    OUTPUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
