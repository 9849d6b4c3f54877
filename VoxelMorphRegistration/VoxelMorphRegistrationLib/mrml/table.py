"""The report as a table of the scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import vtk

from ..results.table import COLUMNS, NUMBERS, Row
from .hierarchy import place_beside
from .names import RESULTS_ROLE, RUN_ATTRIBUTE


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
