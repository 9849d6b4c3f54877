"""Sentences of worker and library in the language of Slicer: by the templates that they were made from."""

from __future__ import annotations

import re
from functools import lru_cache

from slicer.i18n import tr

from .texts import templates

_VALUE = re.compile(r"\{(\w+)\}")


def translated(text: str) -> str:
    """A sentence, or several, in the language of Slicer; as it is where nothing is known of it.

    Values that are sentences themselves, such as the reason of an error within another, are translated as well.
    """
    if not text or not _translating():
        return text
    return _translated(text, 3)


@lru_cache(maxsize=1)
def _translating() -> bool:
    """Whether there is a translation at all: else nothing has to be looked for.

    Slicer knows a text by the file that calls its function, which is that of the templates.
    """
    return any(one != other for one, other in zip(templates(str), templates(tr), strict=True))


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[re.Pattern, str]]:
    """Templates as patterns with their translations, those with the most text of their own first."""
    pairs = zip(templates(str), templates(tr), strict=True)
    ordered = sorted(pairs, key=lambda pair: -len(_VALUE.sub("", pair[0])))
    return [(_pattern(template), translation) for template, translation in ordered]


def _pattern(template: str) -> re.Pattern:
    parts = _VALUE.split(template)
    # Texts and names of values in turn.
    found = [re.escape(_plain(part)) if n % 2 == 0 else f"(?P<{part}>.+?)" for n, part in enumerate(parts)]
    return re.compile("".join(found).rstrip("\\ ") + r"(?=$|\s)", re.DOTALL)


def _plain(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}")


def _translated(text: str, depth: int) -> str:
    found = None
    for pattern, translation in _patterns():
        match = pattern.fullmatch(text)
        if match is not None:
            found = match, translation
            break
    if found is None:
        # Several sentences, one after the other.
        starts = ((pattern.match(text), translation) for pattern, translation in _patterns())
        found = next(((match, translation) for match, translation in starts if match is not None and match.end()), None)
    if found is None:
        return text
    match, translation = found
    values = match.groupdict()
    if depth:
        values = {name: _translated(value, depth - 1) for name, value in values.items()}
    rest = text[match.end() :].lstrip()
    said = translation.format(**values).rstrip()
    return f"{said} {_translated(rest, depth)}" if rest else said
