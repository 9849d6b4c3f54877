"""Nodes that checks add to the scene, and volumes as they are seen on the grid of another one."""

from __future__ import annotations

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import slicer

from ..errors import InputError
from .transforms import matrix_from_vtk
from .view_state import CHECK_ATTRIBUTE, nodes_of, remove_shown
from .volumes import has_voxels


def plain_image(array: np.ndarray):
    data = vtk.vtkImageData()
    data.SetDimensions(*array.shape[::-1])
    data.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    return data


def check_node(scene, class_name: str, what: str):
    """A node made for a check, not saved with the scene; the one of an earlier check is used again."""
    for node in nodes_of(scene, class_name):
        if node.GetAttribute(CHECK_ATTRIBUTE) == what:
            return node
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)
    node.SetName(what)
    node.SetAttribute(CHECK_ATTRIBUTE, what)
    node.SetSaveWithScene(False)
    # Nothing that a user would choose as an input.
    node.SetHideFromEditors(True)
    return scene.AddNode(node)


def remove_check(scene, class_name: str, what: str) -> None:
    """Remove what check_node made, if it is there."""
    for node in [n for n in nodes_of(scene, class_name) if n.GetAttribute(CHECK_ATTRIBUTE) == what]:
        remove_shown(node)


def check_volume(like, what: str):
    """A scalar volume for a check that lies as another volume does."""
    node = check_node(like.GetScene(), "vtkMRMLScalarVolumeNode", what)
    node.CopyOrientation(like)
    node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSaveWithScene(False)
    return node


def need_voxels(*nodes) -> None:
    """Raise InputError for volumes without voxels, as one whose file is gone."""
    for node in nodes:
        if not has_voxels(node):
            raise InputError(f"'{node.GetName()}' has no voxels, so there is nothing to show. Load it again.")


def seen_on(fixed_node, node) -> np.ndarray:
    """The voxels of a volume where they are seen on the grid of another one, (K, J, I), whatever lies above the two.

    Those of a volume that lies on the same grid are returned as they are. Outside, the smallest value.
    Raises InputError where one has no voxels.
    """
    need_voxels(fixed_node, node)
    if same_place(fixed_node, node):
        return slicer.util.arrayFromVolume(node)
    between = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        fixed_node.GetParentTransformNode(), node.GetParentTransformNode(), between
    )
    to_ras, to_ijk = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    fixed_node.GetIJKToRASMatrix(to_ras)
    node.GetRASToIJKMatrix(to_ijk)
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    for part in (to_ras, between, to_ijk):
        whole.Concatenate(part)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(node.GetImageData())
    reslice.SetResliceTransform(whole)
    reslice.SetInterpolationModeToLinear()
    reslice.SetBackgroundLevel(node.GetImageData().GetScalarRange()[0])
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(*fixed_node.GetImageData().GetExtent())
    reslice.Update()
    output = reslice.GetOutput()
    return vtk_to_numpy(output.GetPointData().GetScalars()).reshape(output.GetDimensions()[::-1])


def same_place(one, other) -> bool:
    """Whether two volumes have one grid and lie under one transform."""
    matrices = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    for node, matrix in zip((one, other), matrices, strict=True):
        node.GetIJKToRASMatrix(matrix)
    return (
        one.GetImageData().GetDimensions() == other.GetImageData().GetDimensions()
        and one.GetParentTransformNode() is other.GetParentTransformNode()
        and np.allclose(matrix_from_vtk(matrices[0]), matrix_from_vtk(matrices[1]), atol=1e-4)
    )
