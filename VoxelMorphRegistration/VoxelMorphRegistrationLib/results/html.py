"""The report as one HTML page."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from .table import COLUMNS, EXPECTED_ERROR, NUMBERS, label_names, number_text, plain_report, rows
from .verdict import BAD, GOOD, LOOK, Verdict, verdict

if TYPE_CHECKING:
    from ..registration.report import Report
    from .table import Row


_WIDTH, _PICTURE_WIDTH = 680, 630
_FONT = "font-family: 'Segoe UI', Helvetica, Arial, sans-serif"
_HEAD_COLOR, _STRIPE, _LINE = "#1f4e79", "#f3f6fa", "#c9d3df"
# Background and ink of each kind of verdict.
_VERDICTS = {GOOD: ("#e9f5ec", "#2e7d43"), LOOK: ("#fdf0e3", "#b35900"), BAD: ("#fbe5e5", "#b3261e")}
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


def write_html_report(
    path: str | Path,
    report: Report | Mapping,
    pictures: Mapping[str, str | Path | bytes] | None = None,
    names: Mapping[int, str] | None = None,
    *,
    title: str = "Registration report",
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
    page = html_report(report, pictures, names, title=title)
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
    title: str = "Registration report",
    on_paper: bool = False,
) -> str:
    """The page of write_html_report as text. on_paper: pictures come last, each on a page of its own."""
    plain = plain_report(report)
    lines = rows(plain, names)
    shown = [_picture(caption, source, on_paper) for caption, source in (pictures or {}).items()]
    parts = [
        f'<h1 style="color: {_HEAD_COLOR}; font-size: 20pt; margin-bottom: 0">{html.escape(title)}</h1>',
        _subtitle(plain),
        _verdict(verdict(plain)),
        _warnings(plain.get("warnings") or []),
        *_group_tables(lines, ("Similarity",)),
        _segment_table(plain, label_names(plain, names)),
        *_group_tables(lines, ("Landmark error", EXPECTED_ERROR, "Deformation")),
        *([] if on_paper else shown),
        *_group_tables(lines, ("Run", "Time", "Settings")),
        _heading("Settings as JSON"),
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


def _subtitle(plain: dict) -> str:
    inputs = plain.get("inputs", {})
    pair = ""
    if inputs:
        moving, fixed = html.escape(inputs.get("moving", "")), html.escape(inputs.get("fixed", ""))
        pair = f"<b>{moving}</b> (moving) onto <b>{fixed}</b> (fixed)<br>"
    model = html.escape(plain.get("model", {}).get("name", ""))
    written = datetime.now().strftime("%Y-%m-%d %H:%M")
    facts = f"Model {model} on {html.escape(plain.get('device', ''))}"
    if "total" in plain["seconds"]:
        facts += f", {plain['seconds']['total']:.1f} s"
    version = html.escape(plain.get("version", ""))
    return f'<p style="color: #444444">{pair}{facts}. VoxelMorph {version}, report of {written}.</p>'


def _verdict(found: Verdict) -> str:
    return _box(*_VERDICTS[found.level], [f"<b>{html.escape(found.title)}:</b> {html.escape(found.reason)}"])


def _warnings(warnings: list[str]) -> str:
    if not warnings:
        return ""
    return _box("#fdf0e3", "#b35900", [f"<b>Warning:</b> {html.escape(text)}" for text in warnings])


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


def _group_tables(lines: list[Row], groups: tuple[str, ...]) -> list[str]:
    """A heading and a table for each group that has rows; columns that are empty throughout are left out."""
    parts = []
    for group in groups:
        chosen = [row for row in lines if row.group == group]
        used = [c for c in COLUMNS if c != "group" and any(row.cells()[list(COLUMNS).index(c)] for row in chosen)]
        if not chosen:
            continue
        single = "before" not in used
        headings = [("Value" if single and c in ("after", "text") else COLUMNS[c]) for c in used]
        cells = [[dict(zip(COLUMNS, row.cells(), strict=True))[c] for c in used] for row in chosen]
        numeric = {n for n, c in enumerate(used) if c in NUMBERS}
        parts += [_heading(group), _table(headings, cells, numeric)]
    return parts


def _segment_table(plain: dict, named: dict[str, str]) -> str:
    """One line a structure: Dice, surface distance and volume change side by side."""
    columns: list[tuple[str, dict]] = []
    for title, key, digits in (("Dice {}", "dice", 3), ("HD95 {} (mm)", "hd95_mm", 2)):
        part = plain.get(key)
        if part:
            columns += [(title.format(stage), _texts(part[stage], digits)) for stage in ("before", "after")]
    changes = plain.get("volume_change_percent")
    if changes:
        columns.append(("Volume change", {k: "" if v is None else f"{v:+.1f} %" for k, v in changes.items()}))
    if not columns:
        return ""
    lines = [[name, *(texts.get(label, "") for _, texts in columns)] for label, name in named.items()]
    if plain.get("dice"):
        lines.insert(0, ["mean", *(texts.get("mean", "") for _, texts in columns)])
    note = (
        '<p style="color: #444444; font-size: 8pt">HD95: 95 % symmetric surface distance. Volume change: how much '
        "larger the structure is in the moving image than in the fixed one, from the Jacobian determinant.</p>"
    )
    headings = ["Structure", *(title for title, _ in columns)]
    return _heading("Structures") + _table(headings, lines, set(range(1, len(headings)))) + note


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
