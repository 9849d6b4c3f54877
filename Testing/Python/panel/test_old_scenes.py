"""Results of scenes that the first version of this extension wrote can still be checked."""

from __future__ import annotations

from types import SimpleNamespace

from mrml_cases import prepared
from VoxelMorphRegistrationLib.mrml.names import RESULT_ROLES, RUN_ATTRIBUTE
from VoxelMorphRegistrationLib.mrml.writer import write_outputs


def test_outputs_of_a_transform_without_a_mark_are_those_that_the_scene_names(module, scene):
    from VoxelMorphRegistrationLib.panel.shown import shown_result

    read, registration = prepared(scene)
    nodes = write_outputs(registration, read)
    parameters = SimpleNamespace(
        fixedVolume=read.fixed_node,
        movingVolume=read.moving_node,
        fixedLabels=None,
        movingLabels=None,
        keptTransform=None,
        outputTransform=nodes.grid_transform,
        outputVolume=nodes.volume,
        outputJacobian=nodes.jacobian,
        outputLabels=None,
        outputInverse=None,
    )
    # As the first version left them.
    for node in (nodes.grid_transform, nodes.volume, nodes.jacobian):
        node.RemoveAttribute(RUN_ATTRIBUTE)
    for role in RESULT_ROLES.values():
        nodes.grid_transform.SetNodeReferenceID(role, None)
    shown = shown_result(parameters)
    assert (shown.warped, shown.jacobian) == (nodes.volume, nodes.jacobian)
    # One that a later run wrote is not its.
    nodes.volume.SetAttribute(RUN_ATTRIBUTE, "later")
    assert shown_result(parameters).warped is None
