"""Further volumes and segmentations of the moving side brought onto the fixed volume: dose, structure sets, PET.

They get voxels of their own there, by one interpolation from the original ones. To let a node be shown through a
transform without new voxels is the work of applying.py.
"""

from __future__ import annotations

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer

from ..errors import InputError
from ..images.grid import Grid
from .applying import stored
from .display import show_like, show_segments_like
from .hierarchy import place_beside
from .labels import Label
from .names import DIRECTION_ATTRIBUTE, PARENT_ATTRIBUTE
from .records import recorded_matrix
from .results import results_of
from .segments_in import BINARY, layers_of
from .segments_out import building
from .steps import finish
from .transforms import image_data, linear_transform, matrix_from_vtk
from .volumes import image_from_node, named, parent_to_world


def carry_volume(transform_node, volume_node, background: float = 0.0, name: str = ""):
    """A new volume node: a volume of the moving side on the grid of the fixed volume, by linear interpolation.

    The values are carried as they are, such as Gray of a dose; background: where the volume does not reach.
    Raises InputError.
    """
    grid_node, top, fixed_node = _registered(transform_node)
    image = image_from_node(volume_node, "volume", grid_node)
    data = image_data(image.array)
    chain = _chain(grid_node, top, fixed_node)
    chain.Concatenate(linear_transform(image.grid.ras_to_ijk))
    node = _new(fixed_node, volume_node, volume_node.GetClassName(), name)
    node.SetAndObserveImageData(_resliced(data, chain, fixed_node, linear=True, background=background))
    node.CopyOrientation(fixed_node)
    show_like(node, volume_node)
    # What its values are: the unit of a dose, for example.
    for attribute in volume_node.GetAttributeNames():
        if not attribute.startswith("VoxelMorph."):
            node.SetAttribute(attribute, volume_node.GetAttribute(attribute))
    return node


def carry_segmentation(transform_node, segmentation_node, name: str = ""):
    """A new segmentation node: one of the moving side, whose segments may overlap, on the grid of the fixed volume.

    Segments are carried by nearest neighbour from the moving volume's grid, as labels given to a registration are;
    they keep names, colours and terminology. Raises InputError.
    """
    grid_node, top, fixed_node = _registered(transform_node)
    what = named(segmentation_node, "segmentation")
    if not segmentation_node.IsA("vtkMRMLSegmentationNode"):
        raise InputError(f"The {what} is no segmentation node. Choose a segmentation.")
    moving = _moving_grid(grid_node)
    layers, ids = layers_of(segmentation_node, moving, parent_to_world(segmentation_node, what, grid_node), what)
    source = segmentation_node.GetSegmentation()
    to_ras = vtk.vtkMatrix4x4()
    fixed_node.GetIJKToRASMatrix(to_ras)
    made: dict[int, object] = {}
    for layer in layers:
        chain = _chain(grid_node, top, fixed_node)
        chain.Concatenate(linear_transform(moving.ras_to_ijk))
        carried = _array(_resliced(image_data(layer), chain, fixed_node, linear=False, background=0))
        table = {}
        for value in np.unique(layer[layer > 0]).tolist():
            segment = source.GetSegment(ids[value - 1])
            table[value] = Label(segment.GetName(), tuple(segment.GetColor()), segment, ids[value - 1])
        part = finish(building(carried, matrix_from_vtk(to_ras), table))
        made.update({value: part.GetSegment(label.identity) for value, label in table.items()})
    if not made:
        raise InputError(f"No voxel of the {what} lies inside the moving volume: it is empty, or elsewhere.")
    result = slicer.vtkSegmentation()
    result.SetSourceRepresentationName(BINARY)
    result.CopyConversionParameters(part)
    for value in sorted(made):
        result.AddSegment(made[value], ids[value - 1])
    node = _new(fixed_node, segmentation_node, "vtkMRMLSegmentationNode", name)
    node.SetAndObserveSegmentation(result)
    node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), fixed_node.GetID())
    node.CreateDefaultDisplayNodes()
    show_segments_like(node, segmentation_node)
    return node


def _registered(transform_node):
    """The node with the field, the one to put volumes under, and the fixed volume. Raises InputError."""
    named(transform_node, "transform")
    found = results_of(transform_node)
    if found.grid_transform is None:
        raise InputError(f"'{transform_node.GetName()}' is no transform written by a registration. Choose one that is.")
    if found.grid_transform.GetAttribute(DIRECTION_ATTRIBUTE) == "inverse":
        raise InputError(
            f"'{transform_node.GetName()}' is an inverse: its volumes have changed places. Choose the transform "
            "that it belongs to."
        )
    # Refuses one that was hardened since, and lets it be linear.
    stored(found.grid_transform)
    if found.fixed is None or found.fixed.GetImageData() is None:
        raise InputError(f"The fixed volume of '{transform_node.GetName()}' is no longer in the scene. Load it.")
    return found.grid_transform, found.transform, found.fixed


def _moving_grid(grid_node) -> Grid:
    moving_node = grid_node.GetNodeReference(grid_node.GetMovingNodeReferenceRole())
    if moving_node is None or moving_node.GetImageData() is None:
        raise InputError(f"The moving volume of '{grid_node.GetName()}' is no longer in the scene. Load it.")
    return image_from_node(moving_node, "moving volume", grid_node).grid


def _chain(grid_node, top, fixed_node):
    """From voxels (i, j, k) of the fixed volume to positions of the moving side in the world, RAS mm."""
    to_ras, to_world, from_world = vtk.vtkMatrix4x4(), vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform()
    fixed_node.GetIJKToRASMatrix(to_ras)
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(fixed_node.GetParentTransformNode(), None, to_world)
    top.GetTransformFromWorld(from_world)
    parent = recorded_matrix(grid_node, PARENT_ATTRIBUTE)
    chain = vtk.vtkGeneralTransform()
    chain.PostMultiply()
    for link in (to_ras, to_world, from_world, linear_transform(parent)):
        chain.Concatenate(link)
    return chain


def _resliced(data, chain, fixed_node, linear: bool, background: float):
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(data)
    reslice.SetResliceTransform(chain)
    if linear:
        reslice.SetInterpolationModeToLinear()
    else:
        reslice.SetInterpolationModeToNearestNeighbor()
    reslice.SetBackgroundLevel(background)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(*fixed_node.GetImageData().GetExtent())
    reslice.Update()
    result = vtk.vtkImageData()
    result.DeepCopy(reslice.GetOutput())
    return result


def _array(data) -> np.ndarray:
    return vtk_to_numpy(data.GetPointData().GetScalars()).reshape(data.GetDimensions()[::-1])


def _new(fixed_node, source_node, class_name: str, name: str):
    scene = fixed_node.GetScene()
    name = scene.GenerateUniqueName(name or f"{source_node.GetName()} registered")
    node = scene.AddNewNodeByClass(class_name, name)
    place_beside(node, fixed_node, source_node)
    node.SetAndObserveTransformNodeID(fixed_node.GetTransformNodeID())
    return node
