"""A sequence of four frames, and guides that change with its frames."""

from __future__ import annotations

import numpy as np

import mrml_cases as cases
import slicer
from VoxelMorphRegistrationLib.mrml.transforms import image_data

GRID = cases.FIXED_GRIDS["oblique left-handed"]
SHIFTS = ((0.0, 0.0, 0.0), (2.0, 0.0, -1.0), (4.0, 1.0, -2.0), (1.0, 1.0, 0.0))
POINTS = np.array([[1.0, 2.0, 3.0], [-4.0, 5.0, 0.0]])


def block(number: int) -> np.ndarray:
    """Labels 1 and 2 on GRID, elsewhere in each frame."""
    array = np.zeros(GRID.shape, np.uint8)
    array[5:10, 6:12, 4 + number : 9 + number] = 1
    array[10:14, 6:12, 4 + number : 9 + number] = 2
    return array


def placed(node, array: np.ndarray):
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(GRID.ijk_to_ras))
    node.SetAndObserveImageData(image_data(array))
    return node


def label_map(number: int):
    return placed(slicer.vtkMRMLLabelMapVolumeNode(), block(number))


def t2(number: int):
    return placed(slicer.vtkMRMLScalarVolumeNode(), cases.blobs(GRID, 5 + number))


def segmentation(number: int):
    """Two named segments, not in the scene."""
    maps = slicer.mrmlScene.AddNode(label_map(number))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(maps, node)
    for n, name in enumerate(("Lung", "Heart")):
        node.GetSegmentation().GetNthSegment(n).SetName(name)
    alone = slicer.vtkMRMLSegmentationNode()
    alone.CopyContent(node, True)
    for one in (maps, node):
        slicer.mrmlScene.RemoveNode(one)
    return alone


def points(number: int):
    node = slicer.vtkMRMLMarkupsFiducialNode()
    for position in POINTS + number:
        node.AddControlPoint(*position)
    return node


def add_guide(browser, make, name: str, frames=(0, 1, 2, 3)):
    """A sequence of guides in the browser. Returns the node that shows the frame."""
    scene = slicer.mrmlScene
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    for number in frames:
        sequence.SetDataNodeAtValue(make(number), f"{0.5 * number:g}")
    browser.AddSynchronizedSequenceNode(sequence)
    proxy = browser.GetProxyNode(sequence)
    if proxy is None:
        first = slicer.mrmlScene.AddNewNodeByClass(sequence.GetDataNodeClassName(), name)
        first.CopyContent(sequence.GetNthDataNode(0), True)
        proxy = browser.AddProxyNode(first, sequence, False)
    proxy.SetName(name)
    return proxy
