"""What importing costs and brings, and what the repository promises."""

import subprocess
import sys
from pathlib import Path

import pytest

import VoxelMorphRegistrationLib

LIBRARY = Path(VoxelMorphRegistrationLib.__file__).parent
ROOT = LIBRARY.parent.parent
# The only rooms that may know Slicer, besides the panel.
SLICER_ROOMS = {"scene", "display", "check_views", "view_state", "applying"}
# The only files that may know Qt, besides the panel.
QT_FILES = {"worker/client.py", "worker/process.py"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(LIBRARY.parent)!r}); {statement}; print(*sys.modules, sep='\\n')"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_brings_neither_torch_nor_simpleitk():
    loaded = modules_after("import VoxelMorphRegistrationLib")
    assert not loaded & {"torch", "SimpleITK", "numpy", "slicer", "vtk", "qt"}


def test_the_library_knows_nothing_of_slicer():
    names = [p.stem for p in LIBRARY.glob("*.py") if p.stem not in SLICER_ROOMS | {"__init__", "__main__"}]
    assert "registration" in names and "alignment" in names
    imports = "; ".join(f"import VoxelMorphRegistrationLib.{name}" for name in [*names, "__main__"])
    assert not modules_after(imports) & {"slicer", "vtk", "vtkmodules", "qt", "ctk", "mrml", "PySide6"}


def test_qt_and_slicer_stay_in_their_rooms():
    known = {"qt": set(), "slicer": set()}
    for path in LIBRARY.rglob("*.py"):
        name = path.relative_to(LIBRARY).as_posix()
        words = {w for line in path.read_text(encoding="utf-8").splitlines() if (w := _imported(line))}
        for module in known.keys() & words:
            known[module].add(name)
    panel = {path.relative_to(LIBRARY).as_posix() for path in (LIBRARY / "panel").glob("*.py")}
    assert known["qt"] - panel == QT_FILES
    assert known["slicer"] - panel <= {f"{name}.py" for name in SLICER_ROOMS}


def _imported(line: str) -> str:
    """The package that a line of Python imports, or nothing."""
    words = line.split()
    return words[1].split(".")[0] if len(words) > 1 and words[0] in ("import", "from") else ""


def test_worker_does_without_qt_and_slicer():
    loaded = modules_after("import VoxelMorphRegistrationLib.worker.server")
    assert not loaded & {"slicer", "vtk", "vtkmodules", "qt", "ctk", "PySide6"}


@pytest.mark.parametrize("room", ["geometry", "field", "evaluation", "alignment", "landmarks", "models"])
def test_rooms_without_networks_do_without_torch_until_needed(room):
    assert "torch" not in modules_after(f"import VoxelMorphRegistrationLib.{room}")


def test_command_line_help_comes_without_torch():
    loaded = modules_after("from VoxelMorphRegistrationLib.__main__ import _parser; _parser()")
    assert "torch" not in loaded


def test_tests_skip_nothing():
    for path in (ROOT / "Testing").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("skip" + "if", "pytest." + "skip", "unittest." + "skip", "import" + "orskip", "mark.x" + "fail"):
            assert word not in text, f"{path} holds {word}"
