"""A transform node that bends space as the start of a registration."""

import numpy as np
import pytest

import mrml_cases as cases
from grids import smooth_displacement
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.transforms import grid_transform


def grid_node(scene, grid: Grid, scale: float, inverted: bool = False):
    field = DisplacementField((scale * smooth_displacement(grid.positions())).astype(np.float32), grid)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Initial")
    if inverted:
        node.SetAndObserveTransformToParent(grid_transform(field))
    else:
        node.SetAndObserveTransformFromParent(grid_transform(field))
    return node, field


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
def test_a_node_under_bending_parents_starts_where_it_has_points_from(scene, parents):
    fixed_node, moving_node = cases.make_nodes(scene, "oblique left-handed", parents)
    wide = cases.centred_grid((40, 40, 40), (3.0, 3.0, 3.0))
    node, inner = grid_node(scene, wide, 1.0)
    parent, outer = grid_node(scene, wide, -0.5)
    node.SetAndObserveTransformNodeID(parent.GetID())
    read = read_inputs(fixed_node, moving_node, initial_transform=node)
    points = read.fixed.grid.to_ras(np.random.default_rng(0).uniform(0, read.fixed.grid.size - 1, (40, 3)))
    expected = inner.transform_points(outer.transform_points(points))
    # Sampled at twice the spacing of the fixed volume, linear between.
    assert np.linalg.norm(read.initial_transform.transform_points(points) - expected, axis=1).max() < 0.1
    assert read.warnings == ()


def test_an_inverted_node_is_inverted(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    node, field = grid_node(scene, cases.centred_grid((40, 40, 40), (3.0, 3.0, 3.0)), 1.0, inverted=True)
    read = read_inputs(fixed_node, moving_node, initial_transform=node)
    points = read.fixed.grid.to_ras(np.random.default_rng(0).uniform(2, read.fixed.grid.size - 3, (40, 3)))
    back = field.transform_points(read.initial_transform.transform_points(points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.1


def test_a_volume_is_no_start(scene):
    fixed_node, moving_node = cases.make_nodes(scene)
    with pytest.raises(InputError, match="is no transform"):
        read_inputs(fixed_node, moving_node, initial_transform=moving_node)
