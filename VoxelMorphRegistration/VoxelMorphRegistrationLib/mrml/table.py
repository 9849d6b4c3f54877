"""The report as a table of the scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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


def write_frames(sequence, name: str, reports: Mapping[int, Report], failures: Mapping[int, str]):
    """A new table node with a row for each frame of a sequence: the numbers of its report, or why it has none."""
    scene = sequence.GetScene()
    table = vtk.vtkTable()
    columns: dict[str, list] = {
        "Frame": [],
        "Correlation before": [],
        "Correlation after": [],
        "Folded voxels": [],
        "Smallest determinant": [],
        "Largest displacement (mm)": [],
        "Note": [],
    }
    for number in range(sequence.GetNumberOfDataNodes()):
        report = reports.get(number)
        plain = {} if report is None else plain_report(report)
        similar, inside = plain.get("similarity", {}), plain.get("folding", {}).get("inside", {})
        values = (
            *((similar.get(stage) or {}).get("ncc") for stage in ("before", "after")),
            inside.get("count"),
            inside.get("minimum"),
            plain.get("largest_displacement_mm"),
        )
        texts = (frame_title(sequence, number), failures.get(number, "" if report else "not registered"))
        for heading, value in zip(columns, (texts[0], *values, texts[1]), strict=True):
            columns[heading].append(value)
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
