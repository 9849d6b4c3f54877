"""Points and starts of pins, by the transform of an earlier registration."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.pinned import carried_to_moving, start_from
from VoxelMorphRegistrationLib.mrml.targets import Targets
from VoxelMorphRegistrationLib.mrml.writer import write_outputs


@pytest.mark.parametrize("parents", ["no parents", "both moved"])
@pytest.mark.parametrize("linear", ["inside", "separate"])
def test_points_and_starts_are_carried_whatever_lies_above_the_volumes(scene, parents, linear):
    """Against the registration itself, which is known."""
    fixed_node, moving_node = cases.make_nodes(scene, parents=parents)
    inputs = read_inputs(fixed_node, moving_node)
    made = cases.make_registration(inputs.fixed, inputs.moving)
    outputs = write_outputs(made, inputs, Targets(linear=linear))
    inner = inputs.fixed.grid.to_ras(np.array([[8.0, 9.0, 10.0], [10.0, 12.0, 8.0]]))
    expected = made.field.transform_points(inner) @ made.linear[:3, :3].T + made.linear[:3, 3]
    for point, place_ in zip(inner, expected, strict=True):
        assert carried_to_moving(outputs.grid_transform, point) == pytest.approx(place_, abs=0.05)
    start = start_from(outputs.grid_transform)
    assert start.transform_points(inner) == pytest.approx(expected, abs=0.05)
