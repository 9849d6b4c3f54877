"""The staircase of the rooms: each stands on what it uses, and nothing climbs back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rooms
from rooms import LIBRARY, MODULE_FOLDER, STAIRCASE, imports, library_files, room_of

STEP = {room: len(STAIRCASE) - number for number, rooms in enumerate(STAIRCASE) for room in rooms}
# Which rooms may import what, anywhere in their files.
KNOWS = {
    "slicer": {"mrml", "panel", "VoxelMorphRegistration"},
    "vtk": {"mrml", "panel", "VoxelMorphRegistration"},
    "qt": {"panel", "VoxelMorphRegistration"},
    "ctk": {"panel", "VoxelMorphRegistration"},
}
KNOWS_AS_WELL = {"qt": {"worker/client.py", "worker/process.py"}, "vtk": {"transforms/surfaces.py"}}


def inside(path: Path) -> str:
    return path.relative_to(MODULE_FOLDER / LIBRARY).as_posix()


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    return rooms.arrows()


def test_no_arrow_climbs():
    """Each of those listed stands above or beside what imports it."""
    climbing = []
    for path in library_files():
        room = room_of(path)
        if room == "__init__":
            continue
        for name, _ in imports(path):
            parts = name.split(".")
            if parts[0] == LIBRARY and len(parts) > 1 and parts[1] in STEP and parts[1] != room:
                climbing += [f"{inside(path)} imports {name}"] if STEP[parts[1]] >= STEP[room] else []
    assert climbing == []


def test_every_room_has_its_step():
    assert {room_of(path) for path in library_files()} - {"__init__"} <= set(STEP)


def test_no_circle_of_files(arrows):
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module in done:
            return
        for target in sorted(arrows[module]):
            visit(target, (*way, module))
        done.add(module)

    for module in arrows:
        visit(module, ())


def test_rooms_know_only_what_they_must():
    forbidden = []
    for path in library_files():
        for name, for_types in imports(path):
            top = name.split(".")[0]
            if top in KNOWS and not for_types and room_of(path) not in KNOWS[top]:
                forbidden += [f"{inside(path)} imports {top}"] if inside(path) not in KNOWS_AS_WELL.get(top, ()) else []
    assert forbidden == []


def test_importing_the_library_brings_neither_slicer_nor_torch():
    """A bare interpreter: the rooms for Slicer and those that compute are left to who needs them."""
    apart = {"mrml", "panel", "training", "refinement"}
    torch_at_import = {
        "fields/jacobian.py",
        "images/sampling.py",
        "images/boxes.py",
        "images/scripted.py",
        "images/slabs.py",
        "images/smoothing.py",
        "networks/exported_network.py",
        "networks/heatmaps.py",
        "networks/keypoints.py",
        "networks/quantised.py",
        "networks/symmetric.py",
        "networks/unet.py",
        "registration/guard.py",
        "transforms/cubic.py",
        "trust/quantities.py",
        "trust/runs.py",
        "worker/client.py",
        "worker/process.py",
    }
    modules = [
        ".".join(path.relative_to(MODULE_FOLDER).with_suffix("").parts)
        for path in library_files()
        if room_of(path) not in apart
        and inside(path) not in torch_at_import
        and path.name not in ("__init__.py", "__main__.py")
    ]
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(MODULE_FOLDER)!r})\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(sorted(n for n in ('torch', 'slicer', 'vtk', 'qt', 'ctk', 'SimpleITK', 'scipy') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_outgrows_one_idea():
    for path in library_files():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, f"{path.name} has more than 500 lines"
    entry = MODULE_FOLDER / "VoxelMorphRegistration.py"
    assert len(entry.read_text(encoding="utf-8").splitlines()) <= 620, "the module's file outgrew what it is for"
