"""Nodes are as before when writing fails; voxels get a type that Slicer handles and that holds them."""

from __future__ import annotations

import numpy as np
import pytest
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import mrml_cases as cases
import slicer
from VoxelMorphRegistrationLib.mrml.saved import all_or_nothing
from VoxelMorphRegistrationLib.mrml.transforms import image_data


def transform(scene, name: str, shift: float):
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(cases.affine(shift=(shift, 0, 0))))
    return node


def test_references_content_and_attributes_come_back_and_new_nodes_go(scene):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique", "both moved")
    first, second = transform(scene, "first", 1.0), transform(scene, "second", 2.0)
    output = transform(scene, "output", 3.0)
    output.SetAttribute("kept", "as it was")
    output.AddNodeReferenceID("moving", first.GetID())
    parent = moving_node.GetParentTransformNode()
    segmentation = cases.add_segmentation(scene, fixed_node)
    drawn = segmentation.GetSegmentation()
    names = {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}

    def write():
        with all_or_nothing(scene, moving_node, [output, segmentation]):
            change()
            raise KeyboardInterrupt

    def change():
        output.SetNodeReferenceID("moving", second.GetID())
        output.AddNodeReferenceID("fixed", fixed_node.GetID())
        output.SetAttribute("kept", "changed")
        output.SetAttribute("new", "one")
        # As the writer does: by another transform, not in the one that is there.
        output.SetAndObserveTransformToParent(vtk.vtkTransform())
        moving_node.SetAndObserveTransformNodeID(output.GetID())
        segmentation.SetAndObserveSegmentation(slicer.vtkSegmentation())
        segmentation.SetAttribute("new", "one")
        transform(scene, "made", 4.0)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert output.GetNodeReferenceID("moving") == first.GetID() and output.GetNodeReferenceID("fixed") is None
    assert (output.GetAttribute("kept"), output.GetAttribute("new")) == ("as it was", None)
    assert slicer.util.arrayFromTransformMatrix(output)[0, 3] == 3.0
    assert moving_node.GetParentTransformNode() is parent
    assert segmentation.GetSegmentation() is drawn and segmentation.GetAttribute("new") is None
    assert {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())} == names


def test_nothing_is_put_back_when_all_went_well(scene):
    output = transform(scene, "output", 3.0)
    _, moving_node = cases.make_nodes(scene)
    with all_or_nothing(scene, moving_node, [output]):
        output.SetName("other")
        made = transform(scene, "made", 4.0)
    assert output.GetName() == "other" and scene.IsNodePresent(made)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array([True, False]), np.uint8),
        (np.array([0.5, 2.0], np.float16), np.float32),
        (np.array([0.1, 1e30]), np.float32),
        (np.array([-5, 2**31 - 1]), np.int32),
        (np.array([0, 2**31]), np.float64),
        (np.array([-(2**31) - 1, 0]), np.float64),
        (np.array([1, 2], np.uint64), np.int32),
        (np.array([1, 2], np.int16), np.int16),
        (np.array([1, 2], np.float32), np.float32),
    ],
)
def test_voxels_get_a_type_that_slicer_handles(array, kind):
    data = image_data(array.reshape(1, 1, 2))
    found = vtk_to_numpy(data.GetPointData().GetScalars())
    assert found.dtype == kind and found.tolist() == array.astype(kind).tolist()
    assert data.GetDimensions() == (2, 1, 1)
