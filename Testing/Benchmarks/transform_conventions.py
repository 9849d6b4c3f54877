"""The table of conventions in docs/transforms.md: how far apart this library and each program carry the same points."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "VoxelMorphRegistration"), str(ROOT / "Testing/Python")]

from transform_cases import CASES, setting  # noqa: E402

KINDS = ("anisotropic", "oblique", "left-handed", "oblique, anisotropic, left-handed")
PACKAGES = {
    "SimpleITK": "SimpleITK",
    "ANTs": "antspyx",
    "greedy": "picsl_greedy",
    "nitransforms": "nitransforms",
    "Slicer": "slicer-core",
    "VoxelMorph": "nibabel",
}
BEGIN, END = "<!-- conventions -->\n", "<!-- end of conventions -->"


def table() -> str:
    settings = [setting(kind) for kind in KINDS]
    lines = ["| program | this library | largest difference, mm |", "|---|---|---|"]
    for case in CASES:
        worst = 0.0
        for one in settings:
            with tempfile.TemporaryDirectory() as folder:
                worst = max(worst, case.measure(one, Path(folder)))
        tool = f"{case.tool} ({PACKAGES[case.tool]} {version(PACKAGES[case.tool])})"
        lines.append(f"| {tool} | {case.what} | {worst:.1e} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    page = ROOT / "docs/transforms.md"
    text = page.read_text(encoding="utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(text[:start] + table() + text[end:], encoding="utf-8")


if __name__ == "__main__":
    os.environ.pop("ITK_AUTOLOAD_PATH", None)
    main()
