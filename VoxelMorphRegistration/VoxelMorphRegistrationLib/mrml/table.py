"""The report as a table of the scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import vtk

from ..results.table import COLUMNS, NUMBERS, Row, plain_report
from .frames import frame_title
from .hierarchy import place_beside
from .names import RESULTS_ROLE, RUN_ATTRIBUTE

if TYPE_CHECKING:
    from ..registration.report import Report


def write_results(transform_node, rows: Sequence[Row], name: str = ""):
    """A table node with the rows of a report: text columns, and numbers for before, aligned and after.

    The transform's own table is used again, found through a node reference. Numbers that were not measured are NaN.
    """
    scene = transform_node.GetScene()
    table = vtk.vtkTable()
    for column, heading in COLUMNS.items():
        array = vtk.vtkDoubleArray() if column in NUMBERS else vtk.vtkStringArray()
        array.SetName(heading)
        for row in rows:
            value = getattr(row, column)
            array.InsertNextValue(np.nan if value is None else value)
        table.AddColumn(array)
    node = results_node(transform_node)
    if node is None:
        title = scene.GenerateUniqueName(name or f"{transform_node.GetName()} results")
        node = scene.AddNewNodeByClass("vtkMRMLTableNode", title)
        transform_node.SetNodeReferenceID(RESULTS_ROLE, node.GetID())
        place_beside(node, transform_node)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    node.SetAttribute(RUN_ATTRIBUTE, transform_node.GetAttribute(RUN_ATTRIBUTE))
    return node


def results_node(transform_node):
    """The table of a transform's results, or None."""
    return transform_node.GetNodeReference(RESULTS_ROLE)


# Numbers of a frame's report by their headings; the latter ones where they were measured in any frame.
_OF_FRAMES: dict[str, tuple[str, ...]] = {
    "Correlation before": ("similarity", "before", "ncc"),
    "Correlation after": ("similarity", "after", "ncc"),
    "Folded voxels": ("folding", "inside", "count"),
    "Smallest determinant": ("folding", "inside", "minimum"),
    "Largest displacement (mm)": ("largest_displacement_mm",),
}
_OF_SOME_FRAMES: dict[str, tuple[str, ...]] = {
    "Dice before": ("dice", "before", "mean"),
    "Dice after": ("dice", "after", "mean"),
    "Landmark error before (mm)": ("tre_mm", "before", "mean"),
    "Landmark error after (mm)": ("tre_mm", "after", "mean"),
    "Error expected in half of the anatomy (mm)": ("expected_error", "median"),
}


def write_frames(sequence, name: str, reports: Mapping[int, Report], notes: Mapping[int, str]):
    """A new table node with a row for each frame of a sequence: the numbers of its report, and what is to be said."""
    scene = sequence.GetScene()
    table = vtk.vtkTable()
    numbers = range(sequence.GetNumberOfDataNodes())
    plain = {number: plain_report(report) for number, report in reports.items()}

    def of_all(keys: tuple[str, ...]) -> list:
        return [_value(plain.get(number, {}), keys) for number in numbers]

    columns: dict[str, list] = {"Frame": [frame_title(sequence, number) for number in numbers]}
    columns |= {heading: of_all(keys) for heading, keys in _OF_FRAMES.items()}
    some = {heading: of_all(keys) for heading, keys in _OF_SOME_FRAMES.items()}
    columns |= {heading: found for heading, found in some.items() if any(value is not None for value in found)}
    columns["Note"] = [notes.get(number, "" if number in reports else "not registered") for number in numbers]
    for heading, found in columns.items():
        array = vtk.vtkStringArray() if heading in ("Frame", "Note") else vtk.vtkDoubleArray()
        array.SetName(heading)
        for value in found:
            array.InsertNextValue(np.nan if value is None else value)
        table.AddColumn(array)
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(name))
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    return node


def _value(report: Mapping, keys: tuple[str, ...]) -> float | None:
    value: Any = report
    for key in keys:
        value = (value or {}).get(key)
    return value
