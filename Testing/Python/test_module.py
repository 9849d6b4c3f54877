"""The scripted module: it loads, its panel presses through, and its logic puts a registration into the scene."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types
import typing
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

import mrml_cases as cases
import slicer
from VoxelMorphRegistrationLib import models, registration
from VoxelMorphRegistrationLib import scene as room
from VoxelMorphRegistrationLib.errors import Cancelled, InputError, ModelError, VoxelMorphError
from VoxelMorphRegistrationLib.networks import UNet

MODULE = Path(__file__).parents[2] / "VoxelMorphRegistration"
UI = MODULE / "Resources/UI/VoxelMorphRegistration.ui"


@pytest.fixture
def module(slicer_app):
    """The module file, loaded as Slicer's module factory loads it."""
    loaded = importlib.import_module("VoxelMorphRegistration")
    loaded.parent = slicer_app.add_module(loaded.VoxelMorphRegistration, str(MODULE / "VoxelMorphRegistration.py"))
    return loaded


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """An untrained network that moves everything by the same known flow of some voxels."""
    torch.manual_seed(0)
    network = UNet(3, [4, 4], [4, 4, 4])
    with torch.no_grad():
        network.flow.bias.copy_(torch.tensor([0.4, -0.3, 0.6]))
    path = tmp_path_factory.mktemp("models") / "shift.pt"
    card = models.ModelCard(
        "shift", stride=4, spacing_mm=(2.0, 2.0, 2.0), architecture={"encoder": [4, 4], "decoder": [4, 4, 4]}
    )
    models.save_model(network, card, path)
    return str(path)


@pytest.fixture
def quick(model_file):
    return registration.Settings(model=model_file, alignment="none", device="cpu")


@pytest.fixture
def panel(module, slicer_app, scene):
    nodes = cases.make_nodes(scene)
    widget = slicer_app.open_panel(module.VoxelMorphRegistrationWidget)
    yield widget, *nodes
    widget.cleanup()


# --- loading -----------------------------------------------------------------------------------------------


def test_module_says_what_slicer_asks_of_it(module):
    parent = module.parent
    assert parent.title == "VoxelMorph Registration"
    assert parent.categories == ["Registration"]
    assert parent.contributors
    assert parent.helpText.strip()
    assert parent.acknowledgementText.strip()


def test_module_and_panel_load_without_torch():
    script = f"""
import sys, slicer
slicer.mrmlScene = slicer.vtkMRMLScene()
import slicer_application
slicer_application.start()
import VoxelMorphRegistration as module
slicer_application.add_module(module.VoxelMorphRegistration, {str(MODULE / "VoxelMorphRegistration.py")!r})
slicer_application.open_panel(module.VoxelMorphRegistrationWidget)
assert "torch" not in sys.modules, "torch was imported"
"""
    harness = Path(__file__).parents[1] / "Harness"
    paths = [str(MODULE), str(harness)]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{script}"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_panel_file_fits_the_module(module):
    tree = ElementTree.parse(UI)
    selectors = {w.get("name") for w in tree.iter("widget") if w.get("class") == "qMRMLNodeComboBox"}
    connected = {
        c.findtext("receiver") for c in tree.iter("connection") if c.findtext("signal").startswith("mrmlSceneChanged")
    }
    assert selectors == connected
    bound = {p.findtext("string") for p in tree.iter("property") if p.get("name") == "SlicerParameterName"}
    # A combo box can only be bound to a fixed list of choices; that of models is not fixed.
    assert bound == set(typing.get_type_hints(module.VoxelMorphRegistrationParameterNode)) - {"model"}
    tips = [w for w in tree.iter("widget") if w.get("class") in ("qMRMLNodeComboBox", "QComboBox", "QCheckBox")]
    assert all(any(p.get("name") == "toolTip" for p in w.findall("property")) for w in tips)


# --- the panel ---------------------------------------------------------------------------------------------


def test_panel_chooses_two_volumes_and_is_ready(panel):
    widget, fixed_node, moving_node = panel
    assert widget.ui.fixedVolumeSelector.currentNode() is fixed_node
    assert widget.ui.movingVolumeSelector.currentNode() is moving_node
    assert widget.ui.registerButton.enabled


@pytest.mark.parametrize(
    "fixed, moving, reason",
    [(None, "Moving", "Choose a fixed volume"), ("Fixed", None, "Choose a moving volume"), ("Fixed", "Fixed", "same")],
)
def test_button_says_why_it_is_disabled(panel, fixed, moving, reason):
    widget, *_ = panel
    named = {None: None, "Fixed": panel[1], "Moving": panel[2]}
    widget.ui.fixedVolumeSelector.setCurrentNode(named[fixed])
    widget.ui.movingVolumeSelector.setCurrentNode(named[moving])
    assert not widget.ui.registerButton.enabled
    assert reason in widget.ui.registerButton.toolTip
    widget.ui.fixedVolumeSelector.setCurrentNode(panel[1])
    widget.ui.movingVolumeSelector.setCurrentNode(panel[2])
    assert widget.ui.registerButton.enabled


def test_pressing_register_makes_the_nodes_and_a_second_press_updates_them(panel, model_file, scene):
    import qt

    widget, fixed_node, moving_node = panel
    parameters = widget._parameterNode
    parameters.model = model_file
    widget.ui.alignmentComboBox.currentText = "none"
    widget.ui.refinementComboBox.currentText = "fast"
    widget.ui.deviceComboBox.currentText = "cpu"
    widget.ui.registerButton.click()
    assert qt.slot_errors == []
    assert parameters.outputTransform.GetNodeReference("spatialRegistrationFixed") is fixed_node
    assert parameters.outputVolume.GetName() == "Moving registered"
    assert widget.ui.outputTransformSelector.currentNode() is parameters.outputTransform
    settings = json.loads(parameters.outputTransform.GetAttribute(room.SETTINGS_ATTRIBUTE))
    assert (settings["model"], settings["alignment"], settings["device"]) == (model_file, "none", "cpu")
    assert settings["refinement"] == "fast"
    assert widget.ui.progressBar.value == 100
    assert "folded voxels 0" in widget.ui.statusLabel.text
    assert widget.ui.registerButton.enabled
    count = scene.GetNumberOfNodes()
    widget.ui.registerButton.click()
    assert scene.GetNumberOfNodes() == count
    assert moving_node.GetParentTransformNode() is None
    assert qt.stray_attributes(widget.parent) == []


def test_plain_error_is_shown_and_the_scene_stays(panel, scene, caplog):
    widget, fixed_node, _ = panel
    fixed_node.SetAndObserveImageData(None)
    widget.ui.registerButton.click()
    assert "The fixed volume 'Fixed' is empty" in widget.ui.statusLabel.text
    assert "The fixed volume 'Fixed' is empty" in caplog.text
    assert widget.ui.registerButton.enabled
    assert widget._parameterNode.outputTransform is None


def test_unexpected_error_is_not_swallowed(panel, monkeypatch):
    import qt

    widget, *_ = panel

    def broken(*_unused, **_more):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(widget.logic, "register", broken)
    widget.ui.registerButton.click()
    assert len(qt.slot_errors) == 1
    assert "ZeroDivisionError" in qt.slot_errors.pop()
    assert widget.ui.registerButton.enabled


def test_choices_are_kept_in_the_scene(panel, module):
    widget, _, moving_node = panel
    widget.ui.alignmentComboBox.currentText = "rigid"
    widget.ui.linearComboBox.currentText = "separate"
    widget.ui.applyToMovingCheckBox.checked = True
    again = module.VoxelMorphRegistrationLogic().getParameterNode()
    assert (again.alignment, again.linear, again.applyToMoving) == ("rigid", "separate", True)
    assert again.movingVolume is moving_node
    again.model = "/some/where/own model.pt"
    assert widget.ui.modelComboBox.currentText == "/some/where/own model.pt"


def test_panel_survives_leaving_it_and_closing_the_scene(panel, scene):
    widget, *_ = panel
    widget.exit()
    widget.ui.modelComboBox.setCurrentIndex(0)
    widget.enter()
    scene.Clear(0)
    assert not widget.ui.registerButton.enabled
    assert widget._parameterNode.fixedVolume is None


# --- the logic ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", room.LINEAR_CHOICES)
@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_logic_registers_by_the_whole_road_as_slicer_shows_it(module, scene, quick, parents, linear):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique left-handed", parents)
    nodes = module.VoxelMorphRegistrationLogic().register(
        fixed_node, moving_node, settings=quick.replace(alignment="centers"), linear=linear, applyToMoving=True
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
    from test_scene import add_label_map, add_segmentation

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
    report = json.loads(nodes.transform.GetAttribute(room.REPORT_ATTRIBUTE))
    assert report["label_names"] == {"1": "liver", "2": "kidney"}
    assert nodes.inverse.GetClassName() == "vtkMRMLGridTransformNode"


def test_errors_leave_the_scene_unchanged(module, scene, quick):
    fixed_node, moving_node = cases.make_nodes(scene)
    logic = module.VoxelMorphRegistrationLogic()
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Output")
    constant = cases.add_volume(np.ones((8, 8, 8), np.float32), cases.centred_grid((8, 8, 8), (2, 2, 2)), "Constant")
    before = cases.scene_state(scene)
    failures = [
        (InputError, (fixed_node, fixed_node), {}, "'Fixed' is chosen both as the fixed and as the moving volume"),
        (InputError, (fixed_node, None), {}, "No moving volume is chosen"),
        (InputError, (fixed_node, constant), {}, "all its voxels have the value 1"),
        (InputError, (fixed_node, moving_node), {"outputLabels": output}, "no moving labels"),
        (InputError, (fixed_node, moving_node), {"outputVolume": fixed_node}, "'Fixed' is also an input"),
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


# --- PyTorch -----------------------------------------------------------------------------------------------


class TorchInstaller:
    """What the PyTorch extension offers."""

    def __init__(self, answer) -> None:
        self.answer, self.calls = answer, []

    def PyTorchUtilsLogic(self):  # noqa: N802
        return self

    def installTorch(self, **arguments):  # noqa: N802
        self.calls.append(arguments)
        return self.answer


@pytest.fixture
def without_torch(module, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)


def test_missing_torch_points_to_the_extension(module, scene, without_torch, quick):
    fixed_node, moving_node = cases.make_nodes(scene)
    before = cases.scene_state(scene)
    with pytest.raises(VoxelMorphError, match="Install the extension 'PyTorch'"):
        module.VoxelMorphRegistrationLogic().register(fixed_node, moving_node, settings=quick)
    assert cases.scene_state(scene) == before


def test_torch_is_installed_by_the_extension_and_only_with_consent(module, without_torch, monkeypatch):
    declined, accepted = TorchInstaller(None), TorchInstaller(types.ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", declined)
    with pytest.raises(VoxelMorphError, match="PyTorch was not installed"):
        module.VoxelMorphRegistrationLogic.ensureTorch()
    monkeypatch.setitem(sys.modules, "PyTorchUtils", accepted)
    module.VoxelMorphRegistrationLogic.ensureTorch()
    assert [call["askConfirmation"] for call in declined.calls + accepted.calls] == [True, True]


# --- the module's own test -----------------------------------------------------------------------------------


def test_own_test_of_the_module_passes(module):
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.VoxelMorphRegistrationTest)
    result = unittest.TestResult()
    suite.run(result)
    problems = [text for _, text in result.errors + result.failures]
    assert problems == []
    assert result.testsRun == 2
