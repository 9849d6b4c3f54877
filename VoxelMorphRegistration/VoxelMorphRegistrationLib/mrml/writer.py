"""Results written into the scene, all or none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import vtk

import slicer

from ..errors import InputError, OutputError
from ..images.image import Image
from ..results.written import Wanted, fields_of
from . import display
from .names import LINEAR_ROLE, PARENT_ATTRIBUTE, REPORT_ATTRIBUTE, SETTINGS_ATTRIBUTE
from .saved import all_or_nothing
from .targets import Outputs, Targets, check_targets
from .transforms import image_data, linear_transform, mark_as_inverse, put_under, transforms_of
from .volumes import parent_to_world, world_grid

if TYPE_CHECKING:
    from .inputs import Inputs
    from .labels import Label


def write_outputs(
    registration, inputs: Inputs, targets: Targets | None = None, transforms: dict | None = None
) -> Outputs:
    """Create or update the nodes of a finished registration. On any error the scene is as before.

    registration: a Registration, or a written.Product together with its `transforms` (transforms_of); these are
    computed here, with torch, when None. Raises InputError when a target does not fit, or when the fixed volume was
    moved or removed since it was read.
    """
    targets = targets or Targets()
    check_targets(targets, inputs.fixed_node, inputs.moving_node, inputs.moving_labels_node)
    scene = inputs.fixed_node.GetScene()
    _check_still_there(inputs)
    if targets.labels not in (None, False) and registration.warped_labels is None:
        raise InputError("An output for warped labels is chosen, but no moving labels. Choose the moving labels.")
    wanted = wanted_fields(inputs, targets)
    plan = transforms if transforms is not None else transforms_of(fields_of(registration, wanted))
    existing = [targets.transform, targets.volume, targets.labels, targets.jacobian, targets.inverse]
    with all_or_nothing(scene, inputs.moving_node, [node for node in existing if node]):
        return _Writer(scene, registration, inputs, targets, wanted.fixed_to_world).write(plan)


def _check_still_there(inputs: Inputs) -> None:
    for node in (inputs.fixed_node, inputs.moving_node):
        if node.GetScene() is None:
            raise InputError(f"'{node.GetName()}' was removed from the scene meanwhile. Nothing was written.")
    data = inputs.fixed_node.GetImageData()
    shape = data.GetDimensions()[::-1] if data is not None else (0, 0, 0)
    if shape != inputs.fixed.grid.shape or not world_grid(inputs.fixed_node, shape, inputs.fixed.name).same_as(
        inputs.fixed.grid
    ):
        raise InputError(f"The {inputs.fixed.name} was moved or changed meanwhile. Nothing was written; start again.")


def wanted_fields(inputs: Inputs, targets: Targets) -> Wanted:
    """What is to be computed of a registration for these targets."""
    return Wanted(
        fixed=inputs.fixed.grid,
        moving=inputs.moving.grid,
        moving_to_world=inputs.moving_to_world,
        fixed_to_world=parent_to_world(inputs.fixed_node, inputs.fixed.name),
        transform=targets.transform is not False,
        inverse=targets.inverse is not False,
        linear=targets.linear,
    )


class _Writer:
    """Writes one registration into a scene; used once, inside _all_or_nothing."""

    def __init__(self, scene, registration, inputs: Inputs, targets: Targets, fixed_to_world: np.ndarray) -> None:
        self.scene = scene
        self.fixed_to_world = fixed_to_world
        self.registration = registration
        self.inputs = inputs
        self.targets = targets
        self.moving_name = inputs.moving_node.GetName()

    def write(self, plan: dict) -> Outputs:
        targets, registration = self.targets, self.registration
        grid_node = top = volume = labels = jacobian = inverse = None
        if "grid" in plan:
            grid_node, top = self._write_transform(plan["grid"], plan.get("linear"))
        if "inverse" in plan:
            fixed_name = self.inputs.fixed_node.GetName()
            inverse = self._node(targets.inverse, "vtkMRMLGridTransformNode", f"{fixed_name} to {self.moving_name}")
            self._set_transform(inverse, plan["inverse"], self.inputs.moving_node, self.inputs.fixed_node)
            mark_as_inverse(inverse, grid_node, self.fixed_to_world)
        if targets.volume is not False:
            volume = self._write_warped(registration.warped)
        if targets.labels is not False and registration.warped_labels is not None:
            labels = self._write_labels(registration.warped_labels)
        if targets.jacobian is not False:
            jacobian = self._node(targets.jacobian, "vtkMRMLScalarVolumeNode", f"{self.moving_name} Jacobian")
            self._set_voxels(jacobian, registration.jacobian)
            display.show_as_jacobian(jacobian)
        if targets.apply:
            put_under(self.inputs.moving_node, grid_node, top)
        return Outputs(top, grid_node, volume, labels, jacobian, inverse, registration.report)

    def _node(self, existing, class_name: str, name: str):
        if existing is not None:
            return existing
        node = self.scene.AddNewNodeByClass(class_name, self.scene.GenerateUniqueName(name))
        if node is None:
            raise OutputError(f"The scene did not accept a new {class_name}.")
        return node

    def _write_transform(self, transform, linear: np.ndarray | None):
        inputs = self.inputs
        name = f"{self.moving_name} to {inputs.fixed_node.GetName()}"
        grid_node = self._node(self.targets.transform, "vtkMRMLGridTransformNode", name)
        companion = grid_node.GetNodeReference(LINEAR_ROLE)
        self._set_transform(grid_node, transform, inputs.fixed_node, inputs.moving_node)
        if linear is None:
            if companion is not None:
                # Volumes may still hang below the linear node of an earlier run: there it must do nothing.
                companion.SetAndObserveTransformFromParent(linear_transform(np.eye(4)))
            return grid_node, grid_node
        if companion is None:
            companion = self._node(None, "vtkMRMLLinearTransformNode", f"{grid_node.GetName()} (linear part)")
            grid_node.SetNodeReferenceID(LINEAR_ROLE, companion.GetID())
        self._set_transform(companion, linear_transform(linear), inputs.fixed_node, inputs.moving_node)
        companion.SetAndObserveTransformNodeID(grid_node.GetID())
        return grid_node, companion

    def _set_transform(self, node, transform, fixed_node, moving_node) -> None:
        node.SetAndObserveTransformNodeID(None)
        node.SetAndObserveTransformFromParent(transform)
        node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), fixed_node.GetID())
        node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), moving_node.GetID())
        report = json.loads(self.registration.report.to_json())
        tables = [labels.names() for labels in (self.inputs.fixed_labels, self.inputs.moving_labels) if labels]
        if tables:
            report["label_names"] = {value: name for names in tables for value, name in names.items()}
        node.SetAttribute(SETTINGS_ATTRIBUTE, json.dumps(report["settings"]))
        node.SetAttribute(REPORT_ATTRIBUTE, json.dumps(report))
        node.SetAttribute(PARENT_ATTRIBUTE, json.dumps(self.inputs.moving_to_world.tolist()))

    def _set_voxels(self, node, image: Image) -> None:
        """Voxels on the fixed volume's own grid, under the fixed volume's parent transform."""
        fixed_node = self.inputs.fixed_node
        if image.grid.shape != self.inputs.fixed.grid.shape:
            raise OutputError(f"The {image.name} is not on the grid of the {self.inputs.fixed.name}.")
        node.SetAndObserveTransformNodeID(fixed_node.GetTransformNodeID())
        node.CopyOrientation(fixed_node)
        data = image_data(image.array)
        if node.GetDisplayNode() is None:
            # Before there are voxels: a histogram of them for an automatic window takes long, and is not used.
            node.CreateDefaultDisplayNodes()
            if node.GetDisplayNode().IsA("vtkMRMLScalarVolumeDisplayNode"):
                node.GetDisplayNode().AutoWindowLevelOff()
        node.SetAndObserveImageData(data)

    def _write_warped(self, image: Image):
        node = self._node(self.targets.volume, "vtkMRMLScalarVolumeNode", f"{self.moving_name} registered")
        self._set_voxels(node, image)
        display.show_like(node, self.inputs.moving_node)
        return node

    def _write_labels(self, image: Image):
        source = self.inputs.moving_labels
        class_name = "vtkMRMLSegmentationNode" if source.from_segments else "vtkMRMLLabelMapVolumeNode"
        name = f"{self.inputs.moving_labels_node.GetName()} registered"
        node = self._node(self.targets.labels, class_name, name)
        if node.IsA("vtkMRMLSegmentationNode"):
            self._fill_segmentation(node, image, source.table)
        else:
            self._set_voxels(node, image)
            display.show_as_labels(node, source.table, None if source.from_segments else self.inputs.moving_labels_node)
        return node

    def _fill_segmentation(self, node, image: Image, table: dict[int, Label]) -> None:
        fixed_node = self.inputs.fixed_node
        node.SetAndObserveTransformNodeID(fixed_node.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(fixed_node)
        segmentation = node.GetSegmentation()
        segmentation.RemoveAllSegments()
        data = slicer.vtkOrientedImageData()
        data.DeepCopy(image_data(image.array))
        matrix = vtk.vtkMatrix4x4()
        fixed_node.GetIJKToRASMatrix(matrix)
        data.SetImageToWorldMatrix(matrix)
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        if image.array.any() and not logic.ImportLabelmapToSegmentationNode(data, node, "", ""):
            raise OutputError(f"The warped labels could not be written to the segmentation '{node.GetName()}'.")
        for n in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(n)
            value = segment.GetLabelValue()
            if value in table:
                _describe(segment, table[value], value)
        node.CreateDefaultDisplayNodes()


def _describe(segment, label: Label, value: int) -> None:
    if label.segment is not None:
        segment.DeepCopyMetadata(label.segment)
    segment.SetName(label.name)
    segment.SetColor(*label.color)
    segment.SetLabelValue(value)
