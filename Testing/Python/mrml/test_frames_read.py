"""The frames of a sequence as they are read: what is no sequence of volumes, and their mean."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml.sequences import averaging, volumes_of
from VoxelMorphRegistrationLib.mrml.steps import finish


def sequence_of(scene, *classes):
    """A sequence with a frame of each node class."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Breath")
    for number, name in enumerate(classes):
        if name == "vtkMRMLScalarVolumeNode":
            node = cases.add_volume(np.full((4, 5, 6), 10.0 * number), cases.centred_grid((4, 5, 6), (2, 2, 3)), "one")
        else:
            node = scene.AddNewNodeByClass(name, "other")
        sequence.SetDataNodeAtValue(node, str(number))
        scene.RemoveNode(node)
    return sequence


VOLUME = "vtkMRMLScalarVolumeNode"


def test_volumes_of_a_sequence(scene):
    frames = volumes_of(sequence_of(scene, VOLUME, VOLUME))
    assert [slicer.util.arrayFromVolume(one).max() for one in frames] == [0.0, 10.0]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((VOLUME,), "has 1 frames, and two are needed"),
        ((VOLUME, "vtkMRMLLabelMapVolumeNode"), "Frame 2 of the sequence 'Breath' is no scalar volume"),
        (("vtkMRMLModelNode", VOLUME), "Frame 1 of the sequence 'Breath' is no scalar volume"),
    ],
)
def test_what_is_no_sequence_of_volumes(scene, classes, words):
    with pytest.raises(InputError, match=words):
        volumes_of(sequence_of(scene, *classes))


def test_the_mean_of_frames_is_that_of_their_voxels(scene):
    frames = volumes_of(sequence_of(scene, VOLUME, VOLUME, VOLUME))
    np.testing.assert_allclose(finish(averaging(frames, "the sequence")), np.full((4, 5, 6), 10.0))


def test_no_mean_of_frames_without_values_or_on_other_grids(scene):
    frames = volumes_of(sequence_of(scene, VOLUME, VOLUME))
    empty = slicer.mrmlScene.AddNewNodeByClass(VOLUME, "empty")
    with pytest.raises(InputError, match="Frame 2 of the sequence has no grey values"):
        finish(averaging([frames[0], empty], "the sequence"))
    frames[1].SetSpacing(3, 2, 2)
    with pytest.raises(InputError, match="the sequence"):
        finish(averaging(frames, "the sequence"))
