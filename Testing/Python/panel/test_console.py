"""The recipes of docs/console.md do what they say, in their order, in one console."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK

import mrml_cases as cases
import slicer
import worker_cases
from batch_cases import run_inside
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.mrml.transforms import grid_transform, oriented_grid

RECIPES = Path(__file__).parents[3] / "docs/console.md"


def blocks() -> dict[str, list[str]]:
    """{heading: its blocks of Python}."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^#+ ", RECIPES.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        found[part.splitlines()[0]] = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    return found


@pytest.fixture
def console(standin, opened):
    """As `opened`, with the worker of known results."""
    return opened


@pytest.fixture
def computing(worker_client, opened):
    """As `opened`, with the worker's process."""
    return opened


@pytest.fixture
def opened(module, scene, quick, monkeypatch):
    """A console after the first block, with the quick settings. load and save stand in for those of the application."""
    saved = []

    def load(path):
        image = read_image(path)
        return cases.add_volume(image.array, image.grid, Path(path).stem)

    monkeypatch.setattr(slicer.util, "loadVolume", load)
    monkeypatch.setattr(slicer.util, "saveNode", lambda node, path: saved.append((node.GetClassName(), path)))
    cases.make_nodes(scene)
    names = {"slicer": slicer, "saved": saved}
    exec(blocks()["Recipes for Slicer's Python console"][0], names)
    # register calls it, too.
    asynchronous = names["logic"].registerAsync
    names["logic"].registerAsync = lambda *nodes, settings=None, **more: asynchronous(
        *nodes, settings=settings or quick, **more
    )
    return names


def write_volume(path: Path, seed: int) -> str:
    image = SimpleITK.GetImageFromArray(cases.blobs(cases.centred_grid((20, 20, 20), (2.0, 2.0, 2.0)), seed))
    image.SetSpacing((2.0, 2.0, 2.0))
    SimpleITK.WriteImage(image, str(path))
    return str(path)


def run_recipe(console, heading: str, number: int = 0) -> None:
    exec(blocks()[heading][number], console)


def test_two_volumes(computing, capsys):
    run_recipe(computing, "Two volumes of the scene")
    assert capsys.readouterr().out.startswith("Moving to Fixed Moving registered")


def test_two_volumes_without_waiting(console, capsys):
    run_recipe(console, "Two volumes of the scene", 1)
    said = []
    worker_cases.spin(lambda: said.append(capsys.readouterr().out) or "done: Moving registered" in "".join(said))
    assert "registering: " in "".join(said)


def test_settings_from_a_file(console, tmp_path, quick):
    console["settingsFile"] = str(tmp_path / "settings.json")
    run_recipe(console, "Settings from a JSON file")
    kept = json.loads(console["result"].transform.GetAttribute("VoxelMorph.Settings"))
    assert kept == json.loads((tmp_path / "settings.json").read_text())


def test_loop_over_files_goes_on_after_a_failed_one(computing, scene, quick, tmp_path, capsys):
    flat = SimpleITK.GetImageFromArray(np.ones((8, 8, 8), np.float32))
    SimpleITK.WriteImage(flat, str(tmp_path / "flat.nrrd"))
    computing["fixedFile"] = write_volume(tmp_path / "fixed.nrrd", 1)
    computing["movingFiles"] = [str(tmp_path / "flat.nrrd"), write_volume(tmp_path / "second.nrrd", 2)]
    computing["settings"] = quick
    volumes = len(slicer.util.getNodesByClass("vtkMRMLVolumeNode"))
    run_recipe(computing, "A loop over files")
    assert "flat.nrrd: The moving volume" in capsys.readouterr().out
    assert computing["saved"] == [
        ("vtkMRMLScalarVolumeNode", str(tmp_path / "second_registered.nrrd")),
        ("vtkMRMLTransformNode", str(tmp_path / "second_transform.h5")),
    ]
    # The fixed volume stays.
    assert len(slicer.util.getNodesByClass("vtkMRMLVolumeNode")) == volumes + 1


def test_several_volumes_of_each_side(computing, quick):
    grid = cases.centred_grid((20, 20, 20), (2.0, 2.0, 2.0))
    for name, seed in (("T1 today", 1), ("T1 before", 2), ("FLAIR today", 3), ("FLAIR before", 4)):
        cases.add_volume(cases.blobs(grid, seed), grid, name)
    computing["Settings"] = lambda **more: type(quick)(model="none", alignment="none", device="cpu", **more)
    run_recipe(computing, "Several volumes of each side")
    (channel,) = computing["result"].report.refinement["channels"]
    assert channel["weight"] == 2.0 and "FLAIR today" in channel["fixed"] and "FLAIR before" in channel["moving"]


def test_hundreds_of_pairs_go_to_processes_of_their_own(console, quick, tmp_path, capsys, monkeypatch):
    # Which start in batch/test_batches.py.
    monkeypatch.setattr("VoxelMorphRegistrationLib.batch.running.run_here", run_inside)
    console["fixedFile"] = write_volume(tmp_path / "fixed.nrrd", 1)
    console["movingFiles"] = [write_volume(tmp_path / "second.nrrd", 2), str(tmp_path / "missing.nrrd")]
    console["settings"] = quick
    console["outputFolder"] = str(tmp_path / "out")
    run_recipe(console, "Hundreds of pairs, by processes of their own")
    printed = capsys.readouterr().out
    assert "second-to-fixed done" in printed and "'missing-to-fixed': 'The moving image cannot be read" in printed
    assert slicer.util.getNode("warped.nii") is not None


def test_all_frames_of_a_sequence(computing, scene, quick, capsys):
    # As loading a 4D file leaves it: a volume of the same name shows one frame.
    grid = cases.centred_grid((20, 20, 20), (2.0, 2.0, 2.0))
    sequence, _browser, proxy = cases.add_sequence(scene, grid, [(0.0, 0, 0), (2.0, 1, 0), (1.0, 0, 2)], "Sequence")
    computing["settings"] = quick
    run_recipe(computing, "A sequence (4D): all frames")
    told = capsys.readouterr().out
    assert "Frame 2 of 3: registering" in told and "3 of 3 frames onto 'Sequence frame 1'" in told
    result = computing["result"]
    assert {kind: node.GetNumberOfDataNodes() for kind, node in result.sequences.items()} == {
        "transform": 3,
        "volume": 3,
    }
    arrays = [slicer.util.arrayFromVolume(result.sequences["volume"].GetNthDataNode(n)) for n in range(3)]
    # Onto itself nothing moves, and nothing is to be said against it.
    assert arrays[0] == pytest.approx(slicer.util.arrayFromVolume(sequence.GetNthDataNode(0)), abs=1e-3)
    assert not np.array_equal(arrays[1], arrays[2])
    first = json.loads(result.sequences["transform"].GetNthDataNode(0).GetAttribute("VoxelMorph.Report"))
    assert first["warnings"] == [] and first["largest_displacement_mm"] < 1e-6
    assert result.moving is proxy


def test_transform_from_a_file_is_made_linear(console, scene, tmp_path, monkeypatch):
    grid = cases.FIXED_GRIDS["oblique"]
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    field = DisplacementField(cases.analytic_displacement(grid.positions()), grid)
    node.SetAndObserveTransformFromParent(grid_transform(field))
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(tmp_path / "warp.h5"))
    assert storage.WriteData(node) == 1

    def load(path):
        loaded = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Loaded")
        storage.SetFileName(path)
        assert storage.ReadData(loaded) == 1
        return loaded

    monkeypatch.setattr(slicer.util, "loadTransform", load, raising=False)
    console["transformFile"] = str(tmp_path / "warp.h5")
    run_recipe(console, "A transform that was saved")
    assert oriented_grid(console["transform"]).GetInterpolationModeAsString() == "Linear"


@pytest.fixture
def plan(console, scene, quick):
    """Today's and the planning image, each in its study, with dose and structures of the plan."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    grid = cases.centred_grid((20, 20, 20), (2.0, 2.0, 2.0))
    for number, name in enumerate(("Today", "Plan"), start=1):
        volume = cases.add_volume(cases.blobs(grid, number), grid, name)
        patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Doe")
        hierarchy.SetItemAttribute(patient, "DICOM.PatientName", "Doe")
        hierarchy.SetItemAttribute(patient, "DICOM.PatientID", "42")
        study = hierarchy.CreateStudyItem(patient, name)
        hierarchy.SetItemAttribute(study, "DICOM.StudyDate", f"2026010{number}")
        hierarchy.SetItemUID(study, "DICOM", f"1.2.{number}")
        item = hierarchy.CreateItem(study, volume)
        hierarchy.SetItemAttribute(item, "DICOM.Modality", ("MR", "CT")[number - 1])
        hierarchy.SetItemAttribute(item, "DICOM.FrameOfReferenceUID", f"1.9.{number}")
    cases.add_volume(np.full(grid.shape, 30, np.float32), grid, "Dose")
    cases.add_segmentation(scene, slicer.util.getNode("Plan"), name="Structures")
    console["settings"] = quick
    run_recipe(console, "Dose and structure set of a treatment plan on today's image")
    return console


def test_dose_and_structures_are_on_todays_image(plan):
    dose, structures = plan["dose"], plan["structures"]
    assert (dose.GetName(), structures.GetName()) == ("Dose today", "Structures today")
    array = slicer.util.arrayFromVolume(dose)
    assert array.shape == (20, 20, 20) and array.max() == 30 and array[10, 10, 10] == 30
    assert structures.GetSegmentation().GetNumberOfSegments() == 2


def test_registered_volume_is_exported_with_patient_study_and_references(plan, scene, tmp_path, monkeypatch, capsys):
    exported = []

    class Exportable:
        def __init__(self):
            self.tags, self.directory = {}, ""

        def setTag(self, name, value):
            self.tags[name] = value

    class DICOMScalarVolumePluginClass:
        def examineForExport(self, item):
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            return [Exportable()] if hierarchy.GetItemDataNode(item) is plan["result"].volume else []

        def export(self, exportables):
            exported.extend(exportables)
            return ""

    plugin = SimpleNamespace(DICOMScalarVolumePluginClass=DICOMScalarVolumePluginClass)
    monkeypatch.setitem(sys.modules, "DICOMScalarVolumePlugin", plugin)
    plan["folder"] = str(tmp_path)
    run_recipe(plan, "Export the registered volume as DICOM")
    assert len(exported) == 1 and exported[0].directory == str(tmp_path)
    tags = exported[0].tags
    assert (tags["PatientName"], tags["PatientID"]) == ("Doe", "42")
    assert (tags["StudyDate"], tags["StudyInstanceUID"]) == ("20260101", "1.2.1")
    assert (tags["Modality"], tags["FrameOfReferenceUID"]) == ("CT", "1.9.1")
    assert tags["SeriesDescription"] == "Plan registered"
    assert "exported to" in capsys.readouterr().out


def test_atlas_to_many_subjects(console, scene, quick, tmp_path):
    grid = cases.centred_grid((20, 20, 20), (2.0, 2.0, 2.0), center=(-19.0, -19.0, 19.0))
    atlas = cases.add_volume(cases.blobs(grid, 5), grid, "Atlas")
    cases.add_segmentation(scene, atlas, name="Atlas structures")
    console["subjectFiles"] = [write_volume(tmp_path / f"subject{n}.nrrd", n) for n in (1, 2)]
    console["settings"] = quick
    run_recipe(console, "One atlas to many subjects, its segmentation carried over")
    names = [node.GetName() for node in console["segmentations"].values()]
    assert names == ["subject1 structures", "subject2 structures"]
    assert all(node.GetSegmentation().GetNumberOfSegments() == 2 for node in console["segmentations"].values())
