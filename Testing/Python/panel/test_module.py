"""The scripted module: it loads, its panel presses through, and its logic puts a registration into the scene."""

from __future__ import annotations

import json
import sys
import types
import unittest
from pathlib import Path

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.errors import Cancelled, InputError, ModelError, VoxelMorphError
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.targets import LINEAR_CHOICES

MODULE = Path(__file__).parents[3] / "VoxelMorphRegistration"
# Registrations run in the worker; it is ended with these tests.
pytestmark = pytest.mark.usefixtures("worker_client")

# --- loading -----------------------------------------------------------------------------------------------


def test_module_says_what_slicer_asks_of_it(module):
    parent = module.parent
    assert parent.title == "VoxelMorph Registration"
    assert parent.categories == ["Registration"]
    assert parent.contributors
    assert parent.helpText.strip()
    assert parent.acknowledgementText.strip()


# --- the logic ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", LINEAR_CHOICES)
@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_logic_registers_by_the_whole_road_as_slicer_shows_it(module, scene, quick, tmp_path, parents, linear):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique left-handed", parents, shift_mm=(4.0, -3.0, 5.0))
    # It finds the shift; what makes the images less similar would be undone.
    settings = quick.replace(model=str(save_centroid_model(tmp_path / "centroid.pt")), alignment="centers")
    nodes = module.VoxelMorphRegistrationLogic().register(
        fixed_node, moving_node, settings=settings, linear=linear, applyToMoving=True
    )
    assert moving_node.GetParentTransformNode() is nodes.transform
    assert nodes.report.largest_displacement_mm > 1
    written = slicer.util.arrayFromVolume(nodes.volume)
    moving = slicer.util.arrayFromVolume(moving_node)
    resliced = cases.slicer_reslice(scene, moving_node, fixed_node, float(moving.min()))
    difference = np.abs(written - resliced)
    # At the rim of the moving volume the two cut the field of view differently; it is a thin shell.
    assert np.quantile(difference, 0.9) < 1e-3 * np.ptp(moving)
    assert np.median(difference) < 1e-4 * np.ptp(moving)


def test_logic_takes_labels_points_and_mask(module, scene, quick):
    from mrml_cases import add_label_map, add_segmentation

    fixed_node, moving_node = cases.make_nodes(scene)
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    points.AddControlPoint(1, 2, 3)
    nodes = module.VoxelMorphRegistrationLogic().register(
        fixed_node,
        moving_node,
        settings=quick,
        fixedLabels=add_segmentation(scene, fixed_node, name="Fixed segments"),
        movingLabels=add_segmentation(scene, moving_node, ("kidney", "liver"), "Moving segments"),
        fixedPoints=points,
        movingPoints=points,
        fixedMask=add_label_map(scene, fixed_node, "Mask"),
        outputInverse=None,
    )
    assert set(nodes.report.dice["after"]["labels"]) == {1, 2}
    assert nodes.report.tre_mm["before"]["mean"] == 0.0
    names = [nodes.labels.GetSegmentation().GetNthSegment(n).GetName() for n in range(2)]
    assert sorted(names) == ["kidney", "liver"]
    report = json.loads(nodes.transform.GetAttribute(REPORT_ATTRIBUTE))
    assert report["label_names"] == {"1": "liver", "2": "kidney"}
    assert nodes.inverse.GetClassName() == "vtkMRMLTransformNode"


def test_errors_leave_the_scene_unchanged(module, scene, quick):
    fixed_node, moving_node = cases.make_nodes(scene)
    logic = module.VoxelMorphRegistrationLogic()
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Output")
    constant = cases.add_volume(np.ones((8, 8, 8), np.float32), cases.centred_grid((8, 8, 8), (2, 2, 2)), "Constant")
    start = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Start")
    before = cases.scene_state(scene)
    failures = [
        (InputError, (fixed_node, fixed_node), {}, "'Fixed' is chosen both as the fixed and as the moving volume"),
        (InputError, (fixed_node, None), {}, "No moving volume is chosen"),
        (InputError, (fixed_node, constant), {}, "all its voxels have the value 1"),
        (InputError, (fixed_node, moving_node), {"outputLabels": output}, "no moving labels"),
        (InputError, (fixed_node, moving_node), {"outputVolume": fixed_node}, "'Fixed' is also an input"),
        *(
            (
                InputError,
                (fixed_node, moving_node),
                {"initialTransform": start, f"output{kind.capitalize()}": start},
                f"output {kind} 'Start' is also the initial transform, .* Choose another output {kind}",
            )
            for kind in ("transform", "inverse")
        ),
        (ModelError, (fixed_node, moving_node), {"model": "no-such-model"}, "no-such-model"),
        (Cancelled, (fixed_node, moving_node), {"progress": lambda stage, fraction: stage != "warping"}, "cancelled"),
    ]
    for error, nodes, more, message in failures:
        with pytest.raises(error, match=message):
            logic.register(*nodes, **{"settings": quick, **more})
        assert cases.scene_state(scene) == before


def test_second_registration_into_the_applied_transform_starts_from_the_former_place(module, scene, quick):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", "moving moved")
    logic = module.VoxelMorphRegistrationLogic()
    first = logic.register(fixed_node, moving_node, settings=quick, applyToMoving=True, linear="separate")
    before = slicer.util.arrayFromVolume(first.volume).copy()
    second = logic.register(
        fixed_node,
        moving_node,
        settings=quick,
        applyToMoving=True,
        linear="separate",
        outputTransform=first.grid_transform,
        outputVolume=first.volume,
    )
    assert second.transform is first.transform
    assert np.array_equal(slicer.util.arrayFromVolume(second.volume), before)


def test_registering_in_the_console_leaves_torch_to_the_worker(module, scene, quick, worker_client):
    fixed_node, moving_node = cases.make_nodes(scene)
    stages = []
    logic = module.VoxelMorphRegistrationLogic()
    logic.register(fixed_node, moving_node, settings=quick, progress=lambda stage, fraction: stages.append(stage))
    assert worker_client.state == "ready"
    assert "registering" in stages


def test_error_in_a_progress_callback_stops_the_run_and_is_raised(module, scene, quick):
    fixed_node, moving_node = cases.make_nodes(scene)
    before = cases.scene_state(scene)

    def broken(stage, fraction):
        raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError):
        module.VoxelMorphRegistrationLogic().register(fixed_node, moving_node, settings=quick, progress=broken)
    assert cases.scene_state(scene) == before


# --- sample data -------------------------------------------------------------------------------------------


def test_pairs_of_slicers_samples_are_offered_once_slicer_has_started(module, monkeypatch):
    offered = []
    titles = {}
    logic = types.SimpleNamespace(
        registerCustomSampleDataSource=lambda **source: offered.append(source),
        registerCustomSampleDataCategory=lambda name, title: titles.update({name: title}),
    )
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    (started,) = [function for signal, function in slicer.app.connected if signal == "startupCompleted()"]
    assert offered == []
    started()
    assert titles == {"VoxelMorph": "VoxelMorph registration"}
    assert [source["sampleName"] for source in offered] == ["Two heads, T1", "One head, T2 and T1"]
    for source in offered:
        assert source["category"] == "VoxelMorph"
        picture = Path(source["thumbnailFileName"])
        assert picture.read_bytes()[16:24] == (260).to_bytes(4, "big") + (280).to_bytes(4, "big")
        assert f"Resources/Icons/{picture.name}" in (MODULE / "CMakeLists.txt").read_text()
        lengths = {len(source[name]) for name in ("uris", "fileNames", "nodeNames", "checksums")}
        assert lengths == {2}
        for uri, checksum in zip(source["uris"], source["checksums"], strict=True):
            algorithm, digest = checksum.split(":")
            assert (algorithm, len(bytes.fromhex(digest))) == ("SHA256", 32)
            assert uri.startswith("https://") and uri.endswith(f"/SHA256/{digest}")


# --- PyTorch -----------------------------------------------------------------------------------------------


class TorchInstaller:
    """What the PyTorch extension offers."""

    def __init__(self, answer) -> None:
        self.answer, self.calls = answer, []

    def PyTorchUtilsLogic(self):
        return self

    def installTorch(self, **arguments):
        self.calls.append(arguments)
        return self.answer


@pytest.fixture
def without_torch(module, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_missing_torch_points_to_the_extension(module, scene, without_torch, quick):
    fixed_node, moving_node = cases.make_nodes(scene)
    before = cases.scene_state(scene)
    with pytest.raises(VoxelMorphError, match="Install the extension 'PyTorch'"):
        module.VoxelMorphRegistrationLogic().register(fixed_node, moving_node, settings=quick)
    assert cases.scene_state(scene) == before


@pytest.fixture
def consent(monkeypatch):
    """The user says yes to everything; what was asked is noted."""
    asked = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: bool(asked.append(text) or True))
    return asked


def test_torch_is_installed_by_the_extension_and_only_with_consent(module, without_torch, monkeypatch):
    logic, installer = module.VoxelMorphRegistrationLogic(), TorchInstaller(types.ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", installer)
    with pytest.raises(VoxelMorphError, match="PyTorch was not installed"):
        logic.ensureTorch()
    assert installer.calls == []
    asked = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: bool(asked.append(text) or True))
    logic.ensureTorch()
    assert len(installer.calls) == 1 and installer.calls[0]["askConfirmation"] is False


@pytest.mark.parametrize(
    ("card", "words"), [("/usr/bin/nvidia-smi", "NVIDIA card was found"), (None, "No NVIDIA card")]
)
def test_what_is_downloaded_is_said_with_its_size(module, without_torch, monkeypatch, consent, card, words):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", TorchInstaller(types.ModuleType("torch")))
    monkeypatch.setattr("shutil.which", lambda name: card)
    module.VoxelMorphRegistrationLogic().ensureTorch()
    assert words in consent[0] and ("3 GB" if card else "250 MB") in consent[0]


@pytest.mark.parametrize("works", [True, False])
def test_missing_extension_is_installed_where_the_user_wants_it(module, without_torch, monkeypatch, consent, works):
    installed, restarts = [], []
    manager = types.SimpleNamespace(interactive=True)

    def install(name, restart=True, update=False):
        # What the manager would do by itself: ask once more, and restart at once.
        installed.append((name, manager.interactive, restart))
        return works

    manager.installExtensionFromServer = install
    monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: manager, raising=False)
    monkeypatch.setattr(slicer.util, "restart", lambda: restarts.append(1))
    expected = "Restart Slicer, then press Register" if works else "could not be installed: is Slicer connected"
    with pytest.raises(VoxelMorphError, match=expected):
        module.VoxelMorphRegistrationLogic().ensureTorch()
    assert installed == [("PyTorch", False, False)] and restarts == [1] * works
    assert len(consent) == 1 + works and manager.interactive


def test_intel_macs_are_told_plainly(module, without_torch, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(VoxelMorphError, match="Intel processor PyTorch ends at 2.2"):
        module.VoxelMorphRegistrationLogic().ensureTorch()


def test_failed_installation_of_torch_says_what_to_do(module, scene, without_torch, monkeypatch, consent):
    failing = TorchInstaller(None)
    failing.PyTorchUtilsLogic = lambda: types.SimpleNamespace(installTorch=lambda **_: 1 / 0)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", failing)
    with pytest.raises(VoxelMorphError, match="could not be installed .*division.* 'PyTorch Utils'"):
        module.VoxelMorphRegistrationLogic().ensureTorch()


# --- the module's own test -----------------------------------------------------------------------------------


def test_own_test_of_the_module_passes(module, worker_client):
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.VoxelMorphRegistrationTest)
    result = unittest.TestResult()
    suite.run(result)
    problems = [text for _, text in result.errors + result.failures]
    assert problems == []
    assert (result.testsRun, len(result.skipped)) == (3, 0)


def test_own_test_of_the_module_leaves_out_what_needs_torch_where_it_is_missing(module, without_torch, caplog):
    caplog.set_level("INFO")
    module.VoxelMorphRegistrationTest().runTest()
    assert caplog.text.count("PyTorch is not installed: tests that register are left out") == 2
