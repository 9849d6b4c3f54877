"""The report as one HTML page."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from .table import COLUMNS, EXPECTED_ERROR, NUMBERS, Row, label_names, number_text, plain_report, rows
from .verdict import BAD, GOOD, LOOK, Verdict, verdict

if TYPE_CHECKING:
    from ..registration.report import Report


_WIDTH, _PICTURE_WIDTH = 680, 630
_FONT = "font-family: 'Segoe UI', Helvetica, Arial, sans-serif"
_HEAD_COLOR, _STRIPE, _LINE = "#1f4e79", "#f3f6fa", "#c9d3df"
# Background and ink of each kind of verdict.
_VERDICTS = {GOOD: ("#e9f5ec", "#2e7d43"), LOOK: ("#fdf0e3", "#b35900"), BAD: ("#fbe5e5", "#b3261e")}
TITLE = "Registration report"
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class Words:
    """How a page says what it says: in English, unless the caller knows another language.

    text: headings and other fixed texts, some with named values; name and note: of a row of the table; sentence:
    warnings; verdict: its title and its reason.
    """

    text: Callable[[str], str] = str
    name: Callable[[Row], str] = lambda row: row.name
    note: Callable[[Row], str] = lambda row: row.text
    sentence: Callable[[str], str] = str
    verdict: Callable[[Verdict], tuple[str, str]] = lambda found: (found.title, found.reason)


_ENGLISH = Words()


def write_html_report(
    path: str | Path,
    report: Report | Mapping,
    pictures: Mapping[str, str | Path | bytes] | None = None,
    names: Mapping[int, str] | None = None,
    *,
    title: str = "",
    words: Words = _ENGLISH,
    overwrite: bool = False,
) -> Path:
    """Write one self-contained HTML page: warnings, results, pictures, settings. Returns its path.

    pictures: {caption: PNG or JPEG file, or its bytes}, embedded in this order. names: as in `rows`. The page is
    plain HTML 4 with inline styles, which Qt's QTextDocument lays out and prints as well. The file appears when it
    is complete; raises OutputError when it exists (unless `overwrite`), or when it or a picture fails.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"There is already a file {path}. Choose another name, or allow it to be replaced.")
    page = html_report(report, pictures, names, title=title, words=words)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"The report could not be written to {path}: {error.strerror or error}. Check the folder and free space."
        ) from error
    return path


def html_report(
    report: Report | Mapping,
    pictures: Mapping[str, str | Path | bytes] | None = None,
    names: Mapping[int, str] | None = None,
    *,
    title: str = "",
    words: Words = _ENGLISH,
    on_paper: bool = False,
) -> str:
    """The page of write_html_report as text. on_paper: pictures come last, each on a page of its own."""
    plain, title = plain_report(report), title or words.text(TITLE)
    lines = rows(plain, names)
    shown = [_picture(caption, source, on_paper) for caption, source in (pictures or {}).items()]
    parts = [
        f'<h1 style="color: {_HEAD_COLOR}; font-size: 20pt; margin-bottom: 0">{html.escape(title)}</h1>',
        _subtitle(plain, words),
        _verdict(verdict(plain), words),
        _warnings(plain.get("warnings") or [], words),
        *_group_tables(lines, ("Similarity",), words),
        _segment_table(plain, label_names(plain, names), words),
        *_group_tables(lines, ("Landmark error", EXPECTED_ERROR, "Deformation"), words),
        *([] if on_paper else shown),
        *_group_tables(lines, ("Run", "Time", "Settings"), words),
        _heading(words.text("Settings as JSON")),
        f'<pre style="font-size: 8pt; white-space: pre-wrap">{html.escape(json.dumps(plain["settings"]))}</pre>',
        *(shown if on_paper else []),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html><head><meta http-equiv="Content-Type" content="text/html; charset=utf-8">'
        f"<title>{html.escape(title)}</title></head>\n"
        f'<body style="{_FONT}; font-size: 10pt; color: #1c1c1c; max-width: {_WIDTH}px; margin: 24px auto">\n'
        f"{body}\n</body></html>\n"
    )


def _subtitle(plain: dict, words: Words) -> str:
    def escaped(text) -> str:
        return html.escape(str(text or ""))

    inputs, parts = plain.get("inputs", {}), []
    if inputs:
        pair = words.text("<b>{moving}</b> (moving) onto <b>{fixed}</b> (fixed)")
        parts.append(pair.format(moving=escaped(inputs.get("moving")), fixed=escaped(inputs.get("fixed"))))
    model, device = escaped(plain.get("model", {}).get("name")), escaped(plain.get("device"))
    timed = "total" in plain["seconds"]
    seconds = f"{plain['seconds']['total']:.1f}" if timed else ""
    facts = words.text("Model {model} on {device}, {seconds} s." if timed else "Model {model} on {device}.")
    written = words.text("VoxelMorph {version}, report of {date}.")
    parts.append(
        facts.format(model=model, device=device, seconds=seconds)
        + " "
        + written.format(version=escaped(plain.get("version")), date=datetime.now().strftime("%Y-%m-%d %H:%M"))
    )
    return f'<p style="color: #444444">{"<br>".join(parts)}</p>'


def _verdict(found: Verdict, words: Words) -> str:
    title, reason = words.verdict(found)
    return _box(*_VERDICTS[found.level], [f"<b>{html.escape(title)}:</b> {html.escape(reason)}"])


def _warnings(warnings: list[str], words: Words) -> str:
    if not warnings:
        return ""
    head = html.escape(words.text("Warning:"))
    return _box("#fdf0e3", "#b35900", [f"<b>{head}</b> {html.escape(words.sentence(text))}" for text in warnings])


def _box(color: str, ink: str, lines: list[str]) -> str:
    cells = "<br>".join(lines)
    return (
        f'<table width="100%" cellspacing="0" cellpadding="8" bgcolor="{color}" style="background-color: {color}">'
        f'<tr><td style="color: {ink}">{cells}</td></tr></table>'
    )


def _heading(text: str, new_page: bool = False) -> str:
    style = f"color: {_HEAD_COLOR}; font-size: 13pt; margin-bottom: 4px"
    if new_page:
        style += "; page-break-before: always"
    return f'<h2 style="{style}">{html.escape(text)}</h2>'


def _table(headings: list[str], lines: list[list[str]], numeric: set[int]) -> str:
    """A striped table; columns in `numeric` are set to the right."""
    sides = ["right" if n in numeric else "left" for n in range(len(headings))]
    head = "".join(
        f'<th align="{side}" style="text-align: {side}; color: #ffffff">{html.escape(text)}</th>'
        for side, text in zip(sides, headings, strict=True)
    )
    body = []
    for number, line in enumerate(lines):
        color = _STRIPE if number % 2 else "#ffffff"
        cells = "".join(
            f'<td align="{side}" style="text-align: {side}">{html.escape(text)}</td>'
            for side, text in zip(sides, line, strict=True)
        )
        body.append(f'<tr bgcolor="{color}">{cells}</tr>')
    return (
        f'<table width="100%" cellspacing="0" cellpadding="3" style="border: 1px solid {_LINE}; font-size: 9pt; '
        f'page-break-inside: auto"><tr bgcolor="{_HEAD_COLOR}">{head}</tr>\n' + "\n".join(body) + "</table>"
    )


def _group_tables(lines: list[Row], groups: tuple[str, ...], words: Words) -> list[str]:
    """A heading and a table for each group that has rows; columns that are empty throughout are left out."""
    parts = []
    for group in groups:
        chosen = [row for row in lines if row.group == group]
        if not chosen:
            continue
        cells = [dict(zip(COLUMNS, row.cells(), strict=True)) for row in chosen]
        used = [c for c in COLUMNS if c != "group" and any(cell[c] for cell in cells)]
        single = "before" not in used
        headings = [words.text("Value" if single and c in ("after", "text") else COLUMNS[c]) for c in used]
        for row, cell in zip(chosen, cells, strict=True):
            cell.update(name=words.name(row), unit=words.text(row.unit), text=words.note(row))
        numeric = {n for n, c in enumerate(used) if c in NUMBERS}
        table = _table(headings, [[cell[c] for c in used] for cell in cells], numeric)
        parts += [_heading(words.text(group)), table]
    return parts


def _segment_table(plain: dict, named: dict[str, str], words: Words) -> str:
    """One line a structure: Dice, surface distance and volume change side by side."""
    columns: list[tuple[str, dict]] = []
    for titles, key, digits in (
        (("Dice before", "Dice after"), "dice", 3),
        (("HD95 before (mm)", "HD95 after (mm)"), "hd95_mm", 2),
    ):
        part = plain.get(key)
        if part:
            stages = zip(titles, ("before", "after"), strict=True)
            columns += [(words.text(title), _texts(part[stage], digits)) for title, stage in stages]
    changes = plain.get("volume_change_percent")
    if changes:
        texts = {k: "" if v is None else f"{v:+.1f} %" for k, v in changes.items()}
        columns.append((words.text("Volume change"), texts))
    lengths = plain.get("displacement_mm")
    if lengths:
        columns.append((words.text("Displacement (mm)"), {k: number_text(v["mean"], 1) for k, v in lengths.items()}))
    if not columns:
        return ""
    lines = [[name, *(texts.get(label, "") for _, texts in columns)] for label, name in named.items()]
    if plain.get("dice"):
        lines.insert(0, [words.text("mean"), *(texts.get("mean", "") for _, texts in columns)])
    note = words.text(
        "HD95: 95 % symmetric surface distance. Volume change: how much larger the structure is in the moving image "
        "than in the fixed one, from the Jacobian determinant. Displacement: the mean of the structure, without the "
        "linear alignment."
    )
    headings = [words.text("Structure"), *(title for title, _ in columns)]
    return (
        _heading(words.text("Structures"))
        + _table(headings, lines, set(range(1, len(headings))))
        + f'<p style="color: #444444; font-size: 8pt">{html.escape(note)}</p>'
    )


def _texts(part: dict, digits: int) -> dict[str, str]:
    return {"mean": number_text(part["mean"], digits), **{k: number_text(v, digits) for k, v in part["labels"].items()}}


def _picture(caption: str, source: str | Path | bytes, on_paper: bool) -> str:
    if isinstance(source, bytes):
        data = source
    else:
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise OutputError(f"The picture {source} for the report cannot be read: {error.strerror}.") from error
    kind = next((name for start, name in _KINDS.items() if data.startswith(start)), None)
    if kind is None:
        raise OutputError(f"The picture '{caption}' for the report is neither PNG nor JPEG. Give one of these.")
    text = base64.b64encode(data).decode("ascii")
    # In a paragraph of its own: Qt would take it into the heading's line, and tear that at the end of a page.
    return (
        f'{_heading(caption, on_paper)}<p><img src="data:image/{kind};base64,{text}" width="{_PICTURE_WIDTH}" '
        f'style="max-width: 100%" alt="{html.escape(caption)}"></p>'
    )
