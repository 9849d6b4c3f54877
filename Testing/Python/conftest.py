"""Fixtures for tests in Slicer's runtime: the real MRML scene of slicer-core, and the application's stand-ins."""

from __future__ import annotations

import importlib
import io
import os
import sys
from pathlib import Path

import pytest

# Where tests run beside each other, each process and its children keep to one core.
if "PYTEST_XDIST_WORKER" in os.environ:
    assert "torch" not in sys.modules, "torch is imported too early: it would go on with all cores, and wait for them"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

MODULE_FILE = Path(__file__).parents[2] / "VoxelMorphRegistration/VoxelMorphRegistration.py"


@pytest.fixture
def forked_readers():
    """Damaged files that are read in a process of their own are read in a copy of this one, in a tenth of the time.

    That the process is a bare one, test_apart.py sees, and tests of single files.
    """
    from fuzz import forked_readers

    with forked_readers():
        yield


@pytest.fixture(params=["isal", "zlib"])
def library(request, monkeypatch):
    """What packs and unpacks: the faster library, or the one that is always there."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    return request.param


@pytest.fixture
def scene():
    """A fresh MRML scene with Slicer's colour tables, as slicer.mrmlScene."""
    import slicer

    fresh = slicer.vtkMRMLScene()
    # Registers the segmentation representations and converters, as the application does at its start.
    segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
    segmentations.SetMRMLScene(fresh)
    _keep_one_converter_of_each_kind()
    # Registers sequence browsers, and lets the nodes that show a sequence follow them.
    sequences = slicer.vtkSlicerSequencesLogic()
    sequences.SetMRMLScene(fresh)
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(fresh)
    colors.AddDefaultColorNodes()
    slicer.mrmlScene = fresh
    yield fresh
    fresh.Clear(1)


def _keep_one_converter_of_each_kind():
    """Each logic registers all converters once more, and what copies them takes the square of their number: after 300
    scenes a second for each segmentation.
    """
    import slicer

    factory, kinds = slicer.vtkSegmentationConverterFactory.GetInstance(), set()
    for rule in factory.GetConverterRules():
        if rule.GetClassName() in kinds:
            factory.UnregisterConverterRule(rule)
        kinds.add(rule.GetClassName())


@pytest.fixture
def slicer_app(scene):
    """slicer.app, slicer.modules and Qt as stand-ins; the test fails when an exception was raised in a slot."""
    import qt
    import slicer_application

    slicer_application.start()
    qt.slot_errors.clear()
    qt.Settings.values.clear()
    yield slicer_application
    assert qt.slot_errors == []


@pytest.fixture
def module(slicer_app):
    """The module file, loaded as Slicer's module factory loads it."""
    loaded = importlib.import_module("VoxelMorphRegistration")
    loaded.parent = slicer_app.add_module(loaded.VoxelMorphRegistration, str(MODULE_FILE))
    return loaded


@pytest.fixture
def readers_here(monkeypatch):
    """Sound files are read in this process where the library starts one for each: that one is for damaged files.

    It costs .4 CPU seconds a file, and is itself tested in test_apart.py and with damaged files.
    """
    from VoxelMorphRegistrationLib import apart
    from VoxelMorphRegistrationLib.errors import InputError

    def call(reader, path, error=InputError):
        stream = io.BytesIO()
        apart.answer(reader, path, stream)
        stream.seek(0)
        return apart.received(stream, path, error)

    monkeypatch.setattr(apart, "call", call)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """An untrained network that moves everything by the same known flow of some voxels."""
    import torch

    from VoxelMorphRegistrationLib.networks.card import ModelCard
    from VoxelMorphRegistrationLib.networks.model import save_model
    from VoxelMorphRegistrationLib.networks.unet import UNet

    torch.manual_seed(0)
    network = UNet(3, [4, 4], [4, 4, 4])
    with torch.no_grad():
        network.flow.bias.copy_(torch.tensor([0.4, -0.3, 0.6]))
    path = tmp_path_factory.mktemp("models") / "shift.pt"
    card = ModelCard(
        "shift", stride=4, spacing_mm=(2.0, 2.0, 2.0), architecture={"encoder": [4, 4], "decoder": [4, 4, 4]}
    )
    save_model(network, card, path)
    return str(path)


@pytest.fixture
def quick(model_file):
    """Settings of a registration that takes a fraction of a second."""
    from VoxelMorphRegistrationLib.registration.settings import Settings

    return Settings(model=model_file, alignment="none", device="cpu", refinement="off")


@pytest.fixture(scope="session")
def worker_client():
    """The worker of panel and scripts, ended with the last test, leaving nothing."""
    import worker_cases
    from VoxelMorphRegistrationLib.panel.run import shared_client

    # However busy the computer: a run that can be interrupted is, and costs no new process.
    shared_client()._cancel_s = 30.0
    yield shared_client()
    shared_client().shutdown()
    assert worker_cases.folders() == []


@pytest.fixture
def standin(monkeypatch):
    """A worker of known results in place of the process."""
    from standin_client import StandInClient

    client = StandInClient()
    monkeypatch.setattr("VoxelMorphRegistrationLib.panel.run._shared", [client])
    return client


@pytest.fixture
def swift_panel(module, slicer_app, scene, standin):
    """As `panel`, with the worker of known results: a run takes some turns of the event loop."""
    import mrml_cases

    nodes = mrml_cases.make_nodes(scene, shift_mm=(4.0, -3.0, 5.0))
    widget = slicer_app.open_panel(module.VoxelMorphRegistrationWidget)
    yield widget, *nodes
    widget.cleanup()


@pytest.fixture
def panel(module, slicer_app, scene, worker_client):
    """The opened panel with two volumes of one picture in the scene: (widget, fixed, moving)."""
    import mrml_cases

    nodes = mrml_cases.make_nodes(scene, shift_mm=(4.0, -3.0, 5.0))
    widget = slicer_app.open_panel(module.VoxelMorphRegistrationWidget)
    yield widget, *nodes
    widget.cleanup()
