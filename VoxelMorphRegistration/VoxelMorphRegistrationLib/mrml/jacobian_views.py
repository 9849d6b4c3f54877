"""The map of volume change in the slice views: near the anatomy, where it means something, with its legend."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

import slicer

from ..images.grid import Grid
from ..images.image import Image
from ..registration.intensity import measured_region
from . import display
from .check_nodes import check_volume, need_voxels, plain_image, seen_on
from .check_views import show_pair
from .view_state import CHECK_ATTRIBUTE, mark, nodes_of

JACOBIAN = "Jacobian near the anatomy"
# Beyond the anatomy nothing was compared: the field only fades there. About what the similarity sees around a voxel.
NEAR_MM = 10.0
# No determinant: not drawn.
_NOTHING = -1000.0


def show_jacobian(
    background_node, jacobian_node, opacity: float = 0.6, change: float = 1.0, legend: bool = True
) -> None:
    """The map of volume change over a volume, folds in their own colour. change: as in display.set_jacobian_range.

    Drawn up to NEAR_MM from where the volume rises above its dark background; the map's own node keeps all of it.
    """
    need_voxels(background_node, jacobian_node)
    display.show_as_jacobian(jacobian_node)
    display.set_jacobian_range(jacobian_node, change)
    drawn = _near_anatomy(background_node, jacobian_node)
    show_pair(background_node, drawn, opacity)
    show_legend(jacobian_node, legend)


def drawn_map(scene):
    """The volume that is drawn for a Jacobian map, or None."""
    volumes = nodes_of(scene, "vtkMRMLScalarVolumeNode")
    return next((one for one in volumes if one.GetAttribute(CHECK_ATTRIBUTE) == JACOBIAN), None)


def show_legend(jacobian_node, visible: bool) -> None:
    """Show or hide what the colours of the drawn map mean."""
    node = drawn_map(jacobian_node.GetScene())
    if node is not None:
        display.show_legend(node, visible)
        mark(display.legend_node(node))


def _near_anatomy(background_node, jacobian_node):
    """A volume for the views that holds the map near the anatomy of the other volume, on the map's own grid."""
    values = slicer.util.arrayFromVolume(jacobian_node)
    drawn = check_volume(jacobian_node, JACOBIAN)
    near = _near(seen_on(jacobian_node, background_node), np.array(jacobian_node.GetSpacing()))
    values = np.where(near, values, np.float32(_NOTHING))
    drawn.SetAndObserveImageData(plain_image(np.ascontiguousarray(values)))
    display.show_as_jacobian(drawn)
    shown = drawn.GetDisplayNode()
    shown.AutoThresholdOff()
    shown.SetThreshold(_NOTHING + 1, float(np.finfo(np.float32).max))
    shown.ApplyThresholdOn()
    return drawn


def _near(array: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """(K, J, I) bool: at most NEAR_MM from the anatomy. spacing: mm along i, j, k."""
    region = measured_region(Image(array, Grid(array.shape, np.eye(4)), "fixed volume"), None)
    radius = np.where(np.array(array.shape[::-1]) > 1, np.round(NEAR_MM / spacing), 0).astype(int)
    grown = sitk.BinaryDilate(sitk.GetImageFromArray(region.astype(np.uint8)), radius.tolist(), sitk.sitkBox)
    return sitk.GetArrayViewFromImage(grown) > 0
