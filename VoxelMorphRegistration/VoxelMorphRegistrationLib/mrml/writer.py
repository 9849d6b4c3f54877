"""Results written into the scene, all or none."""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import vtk

from ..errors import InputError, OutputError
from ..images.grid import Grid
from ..images.image import Image
from ..results.written import Wanted, fields_of
from . import display, error_map
from .hierarchy import place_beside
from .names import (
    LINEAR_ROLE,
    PARENT_ATTRIBUTE,
    PLACES_ATTRIBUTE,
    REPORT_ATTRIBUTE,
    SETTINGS_ATTRIBUTE,
    START_ATTRIBUTE,
)
from .results import mark_results
from .saved import all_or_nothing
from .segments_out import building, releasing
from .steps import finish
from .targets import TARGET_NAMES, Outputs, Targets, check_targets
from .transforms import (
    TRANSFORM_CLASS,
    linear_transform,
    making_image_data,
    making_transforms,
    mark_as_inverse,
    matrix_from_vtk,
    matrix_to_vtk,
    put_under,
)
from .volumes import parent_to_world, world_grid

if TYPE_CHECKING:
    from .inputs import Inputs


def write_outputs(
    registration, inputs: Inputs, targets: Targets | None = None, transforms: dict | None = None
) -> Outputs:
    """writing_outputs at once."""
    return finish(writing_outputs(registration, inputs, targets, transforms))


def writing_outputs(
    registration, inputs: Inputs, targets: Targets | None = None, transforms: dict | None = None
) -> Generator[None, None, Outputs]:
    """Create or update the nodes of a finished registration, in steps. On any error the scene is as before.

    What the nodes will hold is made first; the scene is touched in one step, with all nodes or none. Closing the
    generator before that changes nothing.

    registration: a Registration, or a written.Product together with its `transforms` (transforms_of); these are
    computed here, with torch, when None. Raises InputError when a target does not fit, or when the fixed volume was
    moved or removed since it was read.
    """
    targets = targets or Targets()
    _check(inputs, targets)
    if targets.labels not in (None, False) and registration.warped_labels is None:
        raise InputError("An output for warped labels is chosen, but no moving labels. Choose the moving labels.")
    wanted = wanted_fields(inputs, targets)
    plan = transforms
    if plan is None:
        plan = yield from making_transforms(fields_of(registration, wanted))
    content = yield from _making(registration, inputs, targets)
    _check(inputs, targets)
    existing = [node for node in (getattr(targets, name) for name in TARGET_NAMES) if node]
    scene = inputs.fixed_node.GetScene()
    former = targets.labels.GetSegmentation() if _is_segmentation(targets.labels) else None
    with all_or_nothing(scene, inputs.moving_node, existing):
        outputs = _Writer(scene, registration, inputs, targets, wanted.fixed_to_world, content).write(plan)
    yield
    if former is not None and outputs.labels.GetSegmentation() is not former:
        yield from releasing(former)
    return outputs


def _check(inputs: Inputs, targets: Targets) -> None:
    check_targets(targets, inputs.fixed_node, inputs.moving_node, *inputs.fixed_side, *inputs.moving_side)
    _check_still_there(inputs)


def _is_segmentation(node) -> bool:
    return bool(node) and node.IsA("vtkMRMLSegmentationNode")


def _making(registration, inputs: Inputs, targets: Targets) -> Generator[None, None, dict]:
    """What the nodes will hold, by output."""
    content: dict = {}
    doubt = registration.expected_error
    for name, image in (
        ("volume", _on_fixed(registration.warped, inputs)),
        # It may have the voxels of the field.
        ("jacobian", registration.jacobian),
        ("expected_error", None if doubt is None else _on_fixed(doubt.bound, inputs)),
    ):
        if image is not None and getattr(targets, name) is not False:
            content[name] = yield from making_image_data(image.array)
    labels = registration.warped_labels
    if targets.labels is False or labels is None:
        return content
    array = _on_fixed(labels, inputs).array
    assert inputs.moving_labels is not None
    if _is_segmentation(targets.labels) or (targets.labels is None and inputs.moving_labels.from_segments):
        to_ras = vtk.vtkMatrix4x4()
        inputs.fixed_node.GetIJKToRASMatrix(to_ras)
        like = targets.labels.GetSegmentation() if targets.labels else None
        content["labels"] = yield from building(array, matrix_from_vtk(to_ras), inputs.moving_labels.table, like)
    else:
        content["labels"] = yield from making_image_data(array)
    return content


def _on_fixed(image: Image, inputs: Inputs) -> Image:
    if image.grid.shape != inputs.fixed.grid.shape:
        raise OutputError(f"The {image.name} is not on the grid of the {inputs.fixed.name}.")
    return image


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
    """Puts one registration into a scene; used once, inside all_or_nothing. content: what _making gave."""

    def __init__(
        self, scene, registration, inputs: Inputs, targets: Targets, fixed_to_world: np.ndarray, content: dict
    ) -> None:
        self.scene = scene
        self.fixed_to_world = fixed_to_world
        self.inputs = inputs
        self.targets = targets
        self.content = content
        self.jacobian_grid: Grid = registration.jacobian.grid
        self.moving_name = inputs.moving_node.GetName()
        self.run = uuid.uuid4().hex
        report = registration.report
        self.report = replace(
            report, warnings=[*inputs.warnings, *report.warnings], inputs={**report.inputs, **self._facts()}
        )

    def _facts(self) -> dict:
        return {"frames": self.inputs.frames} if self.inputs.frames else {}

    def write(self, plan: dict) -> Outputs:
        targets, inputs, content = self.targets, self.inputs, self.content
        grid_node = top = inverse = None
        nodes: dict = {}
        if "grid" in plan:
            grid_node, top = self._write_transform(plan["grid"], plan.get("linear"))
        if "inverse" in plan:
            name = f"{inputs.fixed_node.GetName()} to {self._moving_title()}"
            inverse = nodes["inverse"] = self._node(targets.inverse, TRANSFORM_CLASS, name)
            self._set_transform(inverse, plan["inverse"], inputs.moving_node, inputs.fixed_node)
            mark_as_inverse(inverse, grid_node, self.fixed_to_world)
        if "volume" in content:
            name = f"{self._moving_title()} registered"
            nodes["volume"] = self._node(targets.volume, "vtkMRMLScalarVolumeNode", name)
            self._set_voxels(nodes["volume"], content["volume"])
            display.show_like(nodes["volume"], inputs.moving_node)
        if "labels" in content:
            nodes["labels"] = self._write_labels(content["labels"])
        if "jacobian" in content:
            name = f"{self._moving_title()} Jacobian"
            nodes["jacobian"] = self._node(targets.jacobian, "vtkMRMLScalarVolumeNode", name)
            self._set_voxels(nodes["jacobian"], content["jacobian"], self.jacobian_grid)
            display.show_as_jacobian(nodes["jacobian"])
        if "expected_error" in content:
            name = f"{self._moving_title()} expected error"
            nodes["expected_error"] = self._node(targets.expected_error, "vtkMRMLScalarVolumeNode", name)
            self._set_voxels(nodes["expected_error"], content["expected_error"])
            error_map.show_as_error(nodes["expected_error"])
        if targets.apply:
            put_under(inputs.moving_node, grid_node, top)
        mark_results(self.run, grid_node, top, nodes, inputs)
        return Outputs(top, grid_node, report=self.report, run=self.run, **nodes)

    def _moving_title(self) -> str:
        """The moving volume's name, with its frame where it shows one of a sequence."""
        frame = self.inputs.frames.get("moving")
        return f"{self.moving_name} {frame.split(' of ')[0]}" if frame else self.moving_name

    def _node(self, existing, class_name: str, name: str):
        if existing is not None:
            return existing
        node = self.scene.AddNewNodeByClass(class_name, self.scene.GenerateUniqueName(name))
        if node is None:
            raise OutputError(f"The scene did not accept a new {class_name}.")
        place_beside(node, self.inputs.fixed_node, self.inputs.moving_node)
        return node

    def _write_transform(self, transform, linear: np.ndarray | None):
        inputs = self.inputs
        name = f"{self._moving_title()} to {inputs.fixed_node.GetName()}"
        grid_node = self._node(self.targets.transform, TRANSFORM_CLASS, name)
        companion = grid_node.GetNodeReference(LINEAR_ROLE)
        self._set_transform(grid_node, transform, inputs.fixed_node, inputs.moving_node)
        if linear is None:
            if companion is not None:
                # Volumes may still hang below the linear node of an earlier run: there it must do nothing.
                companion.SetAndObserveTransformFromParent(linear_transform(np.eye(4)))
            return grid_node, grid_node
        if companion is None:
            companion = self._node(None, TRANSFORM_CLASS, f"{grid_node.GetName()} (linear part)")
            grid_node.SetNodeReferenceID(LINEAR_ROLE, companion.GetID())
        self._set_transform(companion, linear_transform(linear), inputs.fixed_node, inputs.moving_node)
        companion.SetAndObserveTransformNodeID(grid_node.GetID())
        return grid_node, companion

    def _set_transform(self, node, transform, fixed_node, moving_node) -> None:
        node.SetAndObserveTransformNodeID(None)
        node.SetAndObserveTransformFromParent(transform)
        node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), fixed_node.GetID())
        node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), moving_node.GetID())
        inputs = self.inputs
        report = json.loads(self.report.to_json())
        report["run"] = self.run
        tables = [labels.names() for labels in (inputs.fixed_labels, inputs.moving_labels) if labels]
        if tables:
            report["label_names"] = {value: name for names in tables for value, name in names.items()}
        places = {"fixed": inputs.fixed.grid.ijk_to_ras.tolist(), "moving": inputs.moving.grid.ijk_to_ras.tolist()}
        # A start that bends is no matrix, and too large for an attribute.
        matrix = inputs.initial_transform if isinstance(inputs.initial_transform, np.ndarray) else None
        start = None if matrix is None else json.dumps(matrix.tolist())
        for attribute, text in (
            (SETTINGS_ATTRIBUTE, json.dumps(report["settings"])),
            (REPORT_ATTRIBUTE, json.dumps(report)),
            (PARENT_ATTRIBUTE, json.dumps(inputs.moving_to_world.tolist())),
            (PLACES_ATTRIBUTE, json.dumps(places)),
            (START_ATTRIBUTE, start),
        ):
            node.SetAttribute(attribute, text)

    def _set_voxels(self, node, data, grid: Grid | None = None) -> None:
        """Voxels on a grid in the world (the fixed volume's when None), under the fixed volume's parent transform.

        Where that shears, a grid with right angles in the world has none under it: then it lies under no transform.
        """
        fixed_node = self.inputs.fixed_node
        node.SetAndObserveTransformNodeID(fixed_node.GetTransformNodeID())
        node.CopyOrientation(fixed_node)
        if grid is not None and not grid.same_as(self.inputs.fixed.grid):
            local = grid.transformed(np.linalg.inv(self.fixed_to_world))
            if not local.is_orthogonal:
                node.SetAndObserveTransformNodeID(None)
                local = grid
            node.SetIJKToRASMatrix(matrix_to_vtk(local.ijk_to_ras))
        if node.GetDisplayNode() is None:
            # Before there are voxels: a histogram of them for an automatic window takes long, and is not used.
            node.CreateDefaultDisplayNodes()
            if node.GetDisplayNode().IsA("vtkMRMLScalarVolumeDisplayNode"):
                node.GetDisplayNode().AutoWindowLevelOff()
        node.SetAndObserveImageData(data)

    def _write_labels(self, content):
        source, source_node = self.inputs.moving_labels, self.inputs.moving_labels_node
        assert source is not None and source_node is not None
        class_name = "vtkMRMLSegmentationNode" if source.from_segments else "vtkMRMLLabelMapVolumeNode"
        node = self._node(self.targets.labels, class_name, f"{source_node.GetName()} registered")
        if node.IsA("vtkMRMLSegmentationNode"):
            fixed_node = self.inputs.fixed_node
            node.SetAndObserveTransformNodeID(fixed_node.GetTransformNodeID())
            node.SetAndObserveSegmentation(content)
            node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), fixed_node.GetID())
            new = node.GetDisplayNode() is None
            node.CreateDefaultDisplayNodes()
            if new and source.from_segments:
                display.show_segments_like(node, source_node)
        else:
            self._set_voxels(node, content)
            display.show_as_labels(node, source.table, None if source.from_segments else source_node)
        return node
