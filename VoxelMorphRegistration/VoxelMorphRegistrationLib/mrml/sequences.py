"""Sequences of volumes (4D): their frames as inputs, and what was found as sequences beside them in one browser."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer

from ..errors import InputError
from . import display, error_map
from .frame_guides import FrameGuides
from .frames import browser_of, frame_title, results_sequence, shown_sequence
from .hierarchy import place_beside
from .names import (
    APPLIED_ROLE,
    FORMER_ROLE,
    FRAME_ATTRIBUTE,
    INVERSE_ROLE,
    REPORT_ATTRIBUTE,
    RESULT_ROLES,
    SEQUENCE_ROLE,
)
from .records import report_of
from .steps import copying, slabs
from .table import write_frames
from .targets import Outputs
from .transforms import TRANSFORM_CLASS, making_image_data, matrix_from_vtk, put_under

# What all frames are registered onto: a volume, one of the frames, or their mean.
FIXED, FRAME, MEAN = "fixed", "frame", "mean"
# Voxels of the mean computed at once.
_MEAN_VOXELS = 1_000_000
_VOLUME = "vtkMRMLScalarVolumeNode"
_KINDS = {
    "transform": TRANSFORM_CLASS,
    "volume": _VOLUME,
    "jacobian": _VOLUME,
    "expected_error": _VOLUME,
    "inverse": TRANSFORM_CLASS,
}
# Of these a frame may have none.
_NOT_OF_ALL = ("labels", "expected_error")


@dataclass(frozen=True)
class SequenceOutputs(Outputs):
    """The nodes that show the frame of the browser, as Outputs, and the sequences that they are shown of.

    target: the volume that the frames were registered onto. sequences: {"transform" | "volume" | "labels" | "jacobian"
    | "expected_error" | "inverse": node}. kept: the numbers of the frames, from 0, that have a result; failures:
    {number: why it has none}; count: how many frames the sequence has. table: one row a frame.
    """

    browser: Any = None
    target: Any = None
    moving: Any = None
    sequences: dict = field(default_factory=dict)
    kept: tuple[int, ...] = ()
    failures: dict[int, str] = field(default_factory=dict)
    count: int = 0
    table: Any = None


def volumes_of(sequence) -> list:
    """The volumes of a sequence, one a frame. Raises InputError for what is no sequence of scalar volumes."""
    if sequence is None or not hasattr(sequence, "IsA") or not sequence.IsA("vtkMRMLSequenceNode"):
        raise InputError("The moving sequence is no sequence node. Give one of the class vtkMRMLSequenceNode.")
    name = f"sequence '{sequence.GetName()}'"
    frames = [sequence.GetNthDataNode(n) for n in range(sequence.GetNumberOfDataNodes())]
    if len(frames) < 2:
        raise InputError(f"The {name} has {len(frames)} frames, and two are needed. Register its volume instead.")
    for number, one in enumerate(frames):
        if one is None or one.GetClassName() != _VOLUME:
            raise InputError(f"Frame {number + 1} of the {name} is no scalar volume. Choose a sequence of volumes.")
    return frames


def check_parent(proxy) -> None:
    """Raise InputError where what the frames lie under is a sequence itself: it would be another one for each frame."""
    parent = _own_parent(proxy)
    while parent is not None:
        if shown_sequence(parent)[0] is not None:
            raise InputError(
                f"'{proxy.GetName()}' is under '{parent.GetName()}', which changes with the frames. Take it out of "
                "that transform first."
            )
        parent = parent.GetParentTransformNode()


def _own_parent(proxy):
    """The transform above the node that shows the frames; not that of their own registration, which it may be under."""
    if proxy is None:
        return None
    parent = proxy.GetParentTransformNode()
    if results_sequence(parent) is not None and proxy.GetNodeReference(APPLIED_ROLE) is parent:
        return proxy.GetNodeReference(FORMER_ROLE)
    return parent


def _put_below_parent_of(proxy, node) -> None:
    parent = _own_parent(proxy)
    node.SetAndObserveTransformNodeID(None if parent is None else parent.GetID())


def averaging(frames: list, name: str) -> Generator[None, None, np.ndarray]:
    """The mean of volumes on one grid (K, J, I), in steps. Raises InputError where their grids differ."""
    first = frames[0]
    arrays = []
    for number, one in enumerate(frames):
        data = one.GetImageData()
        if data is None or data.GetPointData().GetScalars() is None or data.GetNumberOfScalarComponents() != 1:
            raise InputError(f"Frame {number + 1} of {name} has no grey values. Register onto another volume.")
        same = data.GetDimensions() == first.GetImageData().GetDimensions() and np.allclose(
            _matrix(one), _matrix(first)
        )
        if not same:
            raise InputError(
                f"Frame {number + 1} of {name} has another grid than the first one, so they have no mean. Register the "
                "frames onto a volume or onto one of them."
            )
        arrays.append(vtk_to_numpy(data.GetPointData().GetScalars()).reshape(data.GetDimensions()[::-1]))
    mean = np.zeros(arrays[0].shape, np.float32)
    for rows in slabs(mean.shape, 1.0, _MEAN_VOXELS):
        total = np.zeros(mean[rows].shape)
        for array in arrays:
            total += array[rows]
            yield
        mean[rows] = total / len(arrays)
    return mean


def making_target(sequence, proxy, onto: str, number: int) -> Generator[None, None, Any]:
    """A new volume of the scene to register the frames onto, in steps: frame `number`, or the mean of all."""
    frames = volumes_of(sequence)
    if onto == MEAN:
        array = yield from averaging(frames, f"'{sequence.GetName()}'")
        title, like = f"{sequence.GetName()} mean", frames[0]
    else:
        like = frames[number]
        if like.GetImageData() is None:
            raise InputError(f"Frame {number + 1} of '{sequence.GetName()}' is empty. Choose another one.")
        source = vtk_to_numpy(like.GetImageData().GetPointData().GetScalars())
        source = source.reshape(like.GetImageData().GetDimensions()[::-1])
        array = np.empty_like(source)
        yield from copying(source, array)
        title = f"{sequence.GetName()} {frame_title(sequence, number).split(' of ')[0]}"
    data = yield from making_image_data(array)
    scene = sequence.GetScene()
    node = scene.AddNewNodeByClass(_VOLUME, scene.GenerateUniqueName(title))
    if onto != MEAN:
        # Not FRAME_ATTRIBUTE, which results have.
        node.SetDescription(frame_title(sequence, number))
    node.CopyOrientation(like)
    node.SetAndObserveImageData(data)
    node.CreateDefaultDisplayNodes()
    if proxy is not None:
        _put_below_parent_of(proxy, node)
        place_beside(node, proxy)
        if proxy.GetDisplayNode() is not None:
            display.show_like(node, proxy)
    return node


def _matrix(volume) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix_from_vtk(matrix)


def without_warnings(outputs: Outputs) -> Outputs:
    """The same without the warnings of its report, on its transform as well."""
    assert outputs.grid_transform is not None and outputs.report is not None
    report = report_of(outputs.grid_transform)
    outputs.grid_transform.SetAttribute(REPORT_ATTRIBUTE, json.dumps({**report, "warnings": []}))
    return replace(outputs, report=replace(outputs.report, warnings=[]))


class FrameNodes:
    """Hidden nodes of the scene that one frame after the other is registered with; not saved, removed at the end.

    wanted: the kinds of results besides the transform. given, frame: as of FrameGuides; the segmentation that is
    carried along is one of them.
    """

    def __init__(
        self, sequence, proxy, wanted: tuple[str, ...], given: Mapping[str, Any] | None = None, frame: int | None = None
    ) -> None:
        self.sequence, self.proxy = sequence, proxy
        self.scene = sequence.GetScene()
        self.moving = self._add(_VOLUME, sequence.GetName())
        _put_below_parent_of(proxy, self.moving)
        if proxy is not None and proxy.GetDisplayNode() is not None:
            # What is warped is shown like it; without a window each new image would be looked at for one.
            display.show_like(self.moving, proxy)
        self.guides = FrameGuides(sequence, given or {}, frame, self._add_guide)
        kinds = {**_KINDS, "labels": self.guides.moving_labels_class()}
        self.results = {kind: self._add(kinds[kind], kind) for kind in ("transform", *wanted)}
        labels = self.results.get("labels")
        if labels is not None:
            # Else a segmentation would come up in the views while the frames go by.
            labels.CreateDefaultDisplayNodes()
            labels.GetDisplayNode().SetVisibility(False)

    def _add_guide(self, class_name: str, name: str, shown):
        node = self._add(class_name, name)
        if shown is not None:
            _put_below_parent_of(shown, node)
        return node

    def _add(self, class_name: str, name: str):
        node = self.scene.CreateNodeByClass(class_name)
        node.UnRegister(None)
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        return self.scene.AddNode(node)

    def show(self, number: int) -> None:
        """Let the moving volume be frame `number`; its voxels are those of the sequence, not a copy."""
        frame = self.sequence.GetNthDataNode(number)
        self.moving.CopyOrientation(frame)
        self.moving.SetAndObserveImageData(frame.GetImageData())
        self.moving.SetAttribute(FRAME_ATTRIBUTE, frame_title(self.sequence, number))
        self.guides.show(number)

    def remove(self) -> None:
        for node in (self.moving, *self.guides.nodes, *self.results.values()):
            if node.GetScene() is not None:
                for n in reversed(range(node.GetNumberOfDisplayNodes())):
                    if node.GetNthDisplayNode(n) is not None:
                        self.scene.RemoveNode(node.GetNthDisplayNode(n))
                self.scene.RemoveNode(node)


class SequenceWriter:
    """Keeps what was found of each frame in sequences, and at the end shows them in one browser.

    The browser is the one of the sequence that was registered, where there is one: scrolling it moves all of them.
    """

    def __init__(self, nodes: FrameNodes, target) -> None:
        self.nodes, self.target = nodes, target
        self.sequences: dict[str, Any] = {}
        self.reports: dict[int, Any] = {}
        self.runs: dict[int, str] = {}

    def keep(self, number: int, outputs: Outputs) -> None:
        """Take over what the hidden nodes hold for a frame; they get new content with the next one."""
        source = self.nodes.sequence
        value = source.GetNthIndexValue(number)
        if not self.sequences:
            self.sequences = {kind: self._new_sequence(kind) for kind in self.nodes.results}
        for kind, node in self.nodes.results.items():
            if kind in _NOT_OF_ALL and getattr(outputs, kind) is None:
                continue
            empty = node.CreateNodeInstance()
            empty.SetName(f"{self.sequences[kind].GetName()} {number + 1}")
            self.sequences[kind].SetDataNodeAtValue(empty, value)
            # Without a copy of its voxels.
            self.sequences[kind].UpdateDataNodeAtValue(node, value, True)
            if node.IsA("vtkMRMLSegmentationNode"):
                # It is shared from now on, and the next frame would give it up.
                node.SetAndObserveSegmentation(slicer.vtkSegmentation())
        self.reports[number], self.runs[number] = outputs.report, outputs.run

    def remove(self) -> None:
        """Leave no trace of what was kept."""
        for node in self.sequences.values():
            if node.GetScene() is not None:
                self.nodes.scene.RemoveNode(node)

    def _new_sequence(self, kind: str):
        source, scene = self.nodes.sequence, self.nodes.scene
        names = {
            "transform": f"{source.GetName()} to {self.target.GetName()}",
            "volume": f"{source.GetName()} registered",
            "labels": f"{source.GetName()} segmentation registered",
            "jacobian": f"{source.GetName()} Jacobian",
            "expected_error": f"{source.GetName()} expected error",
            "inverse": f"{self.target.GetName()} to {source.GetName()}",
        }
        node = scene.AddNewNodeByClass("vtkMRMLSequenceNode", scene.GenerateUniqueName(names[kind]))
        node.SetIndexName(source.GetIndexName())
        node.SetIndexUnit(source.GetIndexUnit())
        node.SetIndexType(source.GetIndexType())
        return node

    def finish(self, failures: dict[int, str], apply: bool = False) -> SequenceOutputs:
        """The browser and the nodes that show a frame of each sequence. apply: put the moving one below the first."""
        source, scene = self.nodes.sequence, self.nodes.scene
        browser, moving = browser_of(source)
        if browser is None:
            browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{source.GetName()} browser")
            browser.SetAndObserveMasterSequenceNodeID(source.GetID())
            browser.SetSelectedItemNumber(min(self.reports))
            moving = self._show(browser, source)
        elif browser.GetSelectedItemNumber() not in self.reports:
            browser.SetSelectedItemNumber(min(self.reports))
        for kind in [kind for kind, one in self.sequences.items() if one.GetNumberOfDataNodes() == 0]:
            scene.RemoveNode(self.sequences.pop(kind))
        nodes = {kind: self._show(browser, sequence) for kind, sequence in self.sequences.items()}
        self._connect(nodes, moving)
        number = browser.GetSelectedItemNumber()
        transform = nodes["transform"]
        if apply:
            put_under(moving, transform)
        for node in (*self.sequences.values(), *nodes.values(), browser):
            place_beside(node, self.target, moving if node is nodes.get("volume") else None)
        lacking = {number: self.nodes.guides.lacking(number) for number in self.reports}
        name = f"{self.sequences['transform'].GetName()} frames"
        table = write_frames(source, name, self.reports, {**lacking, **failures})
        place_beside(table, self.target)
        return SequenceOutputs(
            transform=transform,
            grid_transform=transform,
            volume=nodes.get("volume"),
            labels=nodes.get("labels"),
            jacobian=nodes.get("jacobian"),
            expected_error=nodes.get("expected_error"),
            inverse=nodes.get("inverse"),
            report=self.reports[number],
            run=self.runs[number],
            browser=browser,
            target=self.target,
            moving=moving,
            sequences=self.sequences,
            kept=tuple(sorted(self.reports)),
            failures=failures,
            count=source.GetNumberOfDataNodes(),
            table=table,
        )

    def _show(self, browser, sequence):
        """The node that shows the browser's frame of a sequence; the application makes it by itself, a script's not."""
        browser.AddSynchronizedSequenceNode(sequence)
        # A frame without a result must not show that of another one.
        browser.SetMissingItemMode(sequence, browser.MissingItemSetToDefault)
        node = browser.GetProxyNode(sequence)
        if node is None:
            class_name = sequence.GetNthDataNode(0).GetClassName()
            node = self.nodes.scene.AddNewNodeByClass(class_name, sequence.GetName())
            node.SetAttribute("Sequences.BaseName", sequence.GetName())
            browser.AddProxyNode(node, sequence, False)
        master = browser.GetMasterSequenceNode() or sequence
        found = sequence.GetDataNodeAtValue(master.GetNthIndexValue(browser.GetSelectedItemNumber()))
        if found is not None:
            # Slicer writes the next frame into the segmentation that the node has, which must not be this frame's.
            node.CopyContent(found, node.IsA("vtkMRMLSegmentationNode"))
        node.SetNodeReferenceID(SEQUENCE_ROLE, sequence.GetID())
        return node

    def _connect(self, nodes: dict, moving) -> None:
        """References stay with a node while its content changes with the frame; display and place as well."""
        transform, inverse = nodes["transform"], nodes.get("inverse")
        for node, (fixed, other) in ((transform, (self.target, moving)), (inverse, (moving, self.target))):
            if node is not None:
                node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), fixed.GetID())
                node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), other.GetID())
        for kind, role in RESULT_ROLES.items():
            transform.SetNodeReferenceID(role, nodes[kind].GetID() if kind in nodes else None)
        if inverse is not None:
            transform.SetNodeReferenceID(INVERSE_ROLE, inverse.GetID())
        self.nodes.guides.mark_sides(transform)
        for kind in ("volume", "labels", "jacobian", "expected_error"):
            if kind in nodes:
                node = nodes[kind]
                node.SetAndObserveTransformNodeID(self.target.GetTransformNodeID())
                if node.GetDisplayNode() is None:
                    node.CreateDefaultDisplayNodes()
                if kind == "volume":
                    display.show_like(node, moving)
                elif kind == "labels":
                    self._show_labels(node)
                elif kind == "jacobian":
                    display.show_as_jacobian(node)
                else:
                    error_map.show_as_error(node, self.target)

    def _show_labels(self, node) -> None:
        source = self.nodes.guides.shown_labels()
        if node.IsA("vtkMRMLSegmentationNode"):
            if source is not None:
                display.show_segments_like(node, source)
        else:
            display.show_as_labels(node, {}, source)
