"""index.html: a thumbnail a pair, the most doubtful first. One file, no scripts, names of strangers escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from .places import THUMBNAIL

if TYPE_CHECKING:
    from .summary import Line

_STYLE = """
body { font: 14px 'Segoe UI', Helvetica, Arial, sans-serif; color: #1c1c1c; margin: 24px; }
h1 { color: #1f4e79; font-size: 22px; margin: 0 0 4px; } p { color: #444; margin: 0 0 16px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 12px; }
.pair { border: 1px solid #c9d3df; border-left: 6px solid #2e7d43; padding: 8px; overflow-wrap: anywhere; }
.look { border-left-color: #b35900; } .bad, .failed { border-left-color: #b3261e; } .open { border-left-color: #888; }
.pair img { display: block; width: 100%; max-width: 388px; background: #000; } .pair b { font-size: 15px; }
.pair div { margin-top: 4px; font-size: 13px; } a { color: #1f4e79; } small { color: #444; }
"""
_NUMBERS = {
    "local_after": "local correlation",
    "ncc_after": "correlation",
    "dice_after": "Dice",
    "tre_mm_after": "landmarks (mm)",
    "expected_error_p90_mm": "expected error (mm, 90 %)",
    "folded_percent": "folds (%)",
    "determinant_min": "smallest determinant",
}


def page_of(lines: Sequence[Line], title: str) -> str:
    """The page of the pairs, in their order; the pictures are found beside it."""
    count = {state: sum(line.state == state for line in lines) for state in ("done", "failed", "open")}
    told = f"{count['done']:,} pairs done, {count['failed']:,} failed" + (
        f", {count['open']:,} not yet done" if count["open"] else ""
    )
    cells = "\n".join(map(_cell, lines))
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head>\n<body><h1>{title}</h1><p>{told}. The most doubtful first: fixed, warped, and their difference (a "
        'checkerboard of two contrasts). All numbers are in <a href="summary.csv">summary.csv</a>.</p>\n'
        f'<div class="pairs">\n{cells}\n</div></body></html>\n'
    )


def _cell(line: Line) -> str:
    level = line.state if line.state != "done" else line.level
    parts = [f"<b>{html.escape(line.id)}</b>"]
    folder = f"pairs/{quote(line.id)}"
    if line.values:
        # The browser loads those in sight, however many there are.
        parts.append(
            f'<a href="{folder}/"><img loading="lazy" width="388" height="128" alt="" src="{folder}/{THUMBNAIL}"></a>'
        )
        numbers = [
            f"{title} {line.values[name]:.3g}" for name, title in _NUMBERS.items() if line.values.get(name) is not None
        ]
        parts.append(f"<div>{html.escape(', '.join(numbers))}</div>")
    if line.state == "failed":
        parts.append(f"<div><b>Failed:</b> {html.escape(line.message)}</div>")
    elif line.message and line.level != "good":
        parts.append(f"<div>{html.escape(line.message)}</div>")
    if line.reasons:
        parts.append(f"<div>Unlike the others: {html.escape('; '.join(line.reasons))}</div>")
    if line.pair:
        files = f"{line.pair.files.moving} onto {line.pair.files.fixed}"
        parts.append(f"<div><small>{html.escape(files)}</small></div>")
    return f'<div class="pair {html.escape(level)}">{"".join(parts)}</div>'
