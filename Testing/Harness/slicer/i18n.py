"""Stands in for slicer.i18n: texts stay as they are, but for those that a test translates.

As in Slicer, a translation is known by its text and its context: the file of the caller of tr(), with its package.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# By context and text.
translations: dict[tuple[str, str], str] = {}
_VALUE = re.compile(r"(?<!\{)\{([^{}]+)\}(?!\})")


def context_of(file: str) -> str:
    """The context of a source file."""
    path = Path(file)
    return f"{path.parent.name}.{path.stem}" if (path.parent / "__init__.py").is_file() else path.stem


def tr(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError("tr() takes one text; do not format before translating.")
    if not translations:
        return text
    found = translate(context_of(sys._getframe(1).f_code.co_filename), text)
    # Other values than in the text would raise where it is formatted: such a translation is left out.
    return found if {*_VALUE.findall(found)} == {*_VALUE.findall(text)} else text


def translate(context: str, text: str) -> str:
    return translations.get((context, text), text)
