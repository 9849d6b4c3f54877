"""Fixtures for tests in Slicer's runtime: the real MRML scene of slicer-core, and the application's stand-ins."""

from __future__ import annotations

import pytest


@pytest.fixture
def scene():
    """A fresh MRML scene with Slicer's colour tables, as slicer.mrmlScene."""
    import slicer

    fresh = slicer.vtkMRMLScene()
    # Registers the segmentation representations and converters, as the application does at its start.
    segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
    segmentations.SetMRMLScene(fresh)
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(fresh)
    colors.AddDefaultColorNodes()
    slicer.mrmlScene = fresh
    yield fresh
    fresh.Clear(1)


@pytest.fixture
def slicer_app(scene):
    """slicer.app, slicer.modules and Qt as stand-ins; the test fails when an exception was raised in a slot."""
    import qt
    import slicer_application

    slicer_application.start()
    qt.slot_errors.clear()
    yield slicer_application
    assert qt.slot_errors == []
