"""How results are shown: the Jacobian's colours and legend, window and level, label colours, slice layers.

Knows MRML display and colour nodes; computes nothing about registration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

import slicer

from ..errors import InputError
from .records import recorded
from .view_state import CHECK_ATTRIBUTE, restore_fill, restore_outline
from .volumes import has_voxels

if TYPE_CHECKING:
    from .labels import Label

JACOBIAN_COLORS_ATTRIBUTE = "VoxelMorph.JacobianColors"
LABEL_COLORS_ATTRIBUTE = "VoxelMorph.LabelColors"
# Slicer's colour tables have a row for every number up to the largest: as many as labels of 16 bits.
LARGEST_LISTED = 65_535
FOLD_COLOR = (0.0, 1.0, 0.0)
# Where nothing changes: about as bright as tissue is usually shown, so that the overlay hides little of it.
UNCHANGED_GREY = 0.45

_ENTRIES = 256
# A fifth of the colours stands for folds: the legend then has a green part, and one of its six labels is 0.
_FOLD_ENTRIES = 51
_LEGEND_FONT = 10
# Of the range of grey levels. Of 57 pairs of one contrast (brains of several people, follow-ups, CT) 9 in 10 differ by
# less; so does 1 in 10 of 65 pairs of two contrasts, a T1 and a T2 without skull among them: the caller tells these.
_ALIKE = 0.2
_LEGEND_LABELS = 6
# Moves the first boundary just above zero, so that a determinant of exactly 0 counts as folded.
_NUDGE = 1e-6
SMALLEST_CHANGE, LARGEST_CHANGE = 0.05, 10.0


def jacobian_range(change: float = 1.0) -> tuple[float, float]:
    """The window of a Jacobian map whose colours reach to 1 + change, and never less far than 2.

    Slicer maps a value v to colour floor(255 (v - low) / (high - low)). The range starts as many colours below zero
    as stand for folds, so that these hold exactly the determinants <= 0, whatever the range.
    """
    high = 1.0 + max(change, 1.0)
    low = -high * _FOLD_ENTRIES / (_ENTRIES - 1 - _FOLD_ENTRIES)
    return low + _NUDGE, high + _NUDGE


JACOBIAN_RANGE = jacobian_range()


def jacobian_color(determinant: float, change: float = 1.0) -> tuple[float, float, float, float]:
    """RGBA in [0, 1] for a determinant: blue where a region of the fixed image is smaller in the moving one, red
    where it is larger, grey where it is the same, linear in |det - 1| up to `change` (and down to 0 at most);
    FOLD_COLOR where det <= 0.

    Opaque throughout: alpha is 0 or 1 in Slicer's slice views, and a clear band about 1 has hard edges.
    """
    if determinant <= 0:
        return (*FOLD_COLOR, 1.0)
    limit = change if determinant > 1 else min(change, 1.0)
    strength = min(abs(determinant - 1.0) / limit, 1.0)
    # Grey to the pure colour at a change by half, darker beyond: small and large changes stay apart.
    half = min(2.0 * strength, 1.0)
    fade = UNCHANGED_GREY * (1.0 - half)
    main = UNCHANGED_GREY + (1.0 - UNCHANGED_GREY) * half - 0.5 * max(0.0, 2.0 * strength - 1.0)
    middle = fade + 0.25 * (1.0 - strength) * half
    return (fade, middle, main, 1.0) if determinant < 1 else (main, middle, fade, 1.0)


def jacobian_color_node(scene):
    """The scene's colour table for Jacobian maps, made on first use."""
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")):
        node = scene.GetNthNodeByClass(n, "vtkMRMLColorTableNode")
        if node.GetAttribute(JACOBIAN_COLORS_ATTRIBUTE):
            try:
                change = recorded(node, JACOBIAN_COLORS_ATTRIBUTE)
            except InputError:
                change = None
            if not isinstance(change, (int, float)) or not SMALLEST_CHANGE <= change <= LARGEST_CHANGE:
                # Of another version, or damaged.
                _fill_jacobian_colors(node, 1.0)
            return node
    node = scene.CreateNodeByClass("vtkMRMLColorTableNode")
    node.UnRegister(None)
    node.SetName("Jacobian (1 = unchanged)")
    node.SetAttribute("Category", "VoxelMorph")
    node.SetAttribute(JACOBIAN_COLORS_ATTRIBUTE, "1")
    node.SetTypeToUser()
    _fill_jacobian_colors(node, 1.0)
    return scene.AddNode(node)


def _fill_jacobian_colors(node, change: float) -> None:
    node.SetAttribute(JACOBIAN_COLORS_ATTRIBUTE, f"{change:g}")
    low, high = jacobian_range(change)
    step = (high - low) / (_ENTRIES - 1)
    editing = node.StartModify()
    node.SetNumberOfColors(_ENTRIES)
    for entry in range(_FOLD_ENTRIES):
        node.SetColor(entry, "fold (0 or less)", *FOLD_COLOR, 1.0)
    for entry in range(_FOLD_ENTRIES, _ENTRIES):
        determinant = low + (entry + 0.5) * step
        # The end nearer to 1 gives the colour, so that 1 itself, which lies between two entries, is grey.
        distance = max(abs(determinant - 1.0) - 0.5 * step, 0.0)
        shown = 1.0 + math.copysign(distance, determinant - 1.0)
        node.SetColor(entry, f"{determinant:.3f}", *jacobian_color(shown, change))
    node.EndModify(editing)


def set_jacobian_range(volume_node, change: float) -> None:
    """Let the colours of Jacobian maps end at 1 - change (0 at least) and 1 + change; folds keep their own colour.

    All maps of a scene share one colour table, so that their colours can be compared. Raises InputError outside
    SMALLEST_CHANGE to LARGEST_CHANGE.
    """
    if not SMALLEST_CHANGE <= change <= LARGEST_CHANGE:
        raise InputError(f"The Jacobian's range must be {SMALLEST_CHANGE:g} to {LARGEST_CHANGE:g}, not {change:g}.")
    scene = volume_node.GetScene()
    colors = jacobian_color_node(scene)
    if colors.GetAttribute(JACOBIAN_COLORS_ATTRIBUTE) == f"{change:g}":
        return
    _fill_jacobian_colors(colors, change)
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeDisplayNode")):
        shown = scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeDisplayNode")
        if shown.GetColorNodeID() == colors.GetID():
            shown.SetWindowLevelMinMax(*jacobian_range(change))


def show_with_one_window(volume_node, other_node) -> bool:
    """Give a volume the window of another one where their grey levels are alike; returns whether they are.

    Alike: darkest, middle and brightest twentieth differ by less than _ALIKE of the other one's range. Then equal
    tissue has equal grey in both; with windows of their own it has not. For volumes of one contrast: those of two may
    have such levels as well.
    """
    ranges = []
    for node in (other_node, volume_node):
        if not has_voxels(node):
            return False
        array = slicer.util.arrayFromVolume(node)
        if array.ndim != 3:
            return False
        some = array[tuple(slice(None, None, max(n // 64, 1)) for n in array.shape)]
        some = some[np.isfinite(some)]
        if not some.size:
            return False
        ranges.append(np.quantile(some, (0.05, 0.5, 0.95)))
    width = ranges[0][2] - ranges[0][0]
    other = other_node.GetDisplayNode()
    if other is None or width <= 0 or np.abs(ranges[0] - ranges[1]).max() > _ALIKE * width:
        return False
    shown = volume_node.GetDisplayNode()
    shown.AutoWindowLevelOff()
    shown.SetWindowLevel(other.GetWindow(), other.GetLevel())
    return True


def legend_node(volume_node):
    """The colour legend of a volume, or None."""
    return slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(volume_node)


def show_legend(volume_node, visible: bool = True) -> None:
    """Show or hide the colour legend of a Jacobian map in the views that show the map."""
    legend = legend_node(volume_node)
    if legend is None:
        if not visible:
            return
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(volume_node)
    legend.SetTitleText("Volume\nmoving / fixed\n(green: fold)")
    legend.SetLabelFormat("%.1f")
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        # Slicer's own size fills a third of a view.
        text.SetFontSize(_LEGEND_FONT)
    legend.SetNumberOfLabels(_LEGEND_LABELS)
    legend.SetVisibility(visible)


def show_as_jacobian(volume_node) -> None:
    """Give a Jacobian volume its colours, centred on 1; voxels are not blended, so that each fold keeps its colour."""
    if volume_node.GetDisplayNode() is None:
        volume_node.CreateDefaultDisplayNodes()
    shown = volume_node.GetDisplayNode()
    shown.AutoWindowLevelOff()
    colors = jacobian_color_node(volume_node.GetScene())
    shown.SetWindowLevelMinMax(*jacobian_range(float(colors.GetAttribute(JACOBIAN_COLORS_ATTRIBUTE))))
    shown.SetInterpolate(0)
    shown.ApplyThresholdOff()
    shown.SetAndObserveColorNodeID(colors.GetID())


def show_like(volume_node, other_node) -> None:
    """Give a volume the window, level and colours of another one."""
    if volume_node.GetDisplayNode() is None:
        volume_node.CreateDefaultDisplayNodes()
    shown, other = volume_node.GetDisplayNode(), other_node.GetDisplayNode()
    if other is None:
        shown.AutoWindowLevelOn()
        return
    if other.GetColorNodeID():
        shown.SetAndObserveColorNodeID(other.GetColorNodeID())
    # The values outside the moving image would disturb an automatic window, so its present range is taken over.
    shown.AutoWindowLevelOff()
    shown.SetWindowLevel(other.GetWindow(), other.GetLevel())


def show_segments_like(node, other_node) -> None:
    """Let a segmentation come up as another one with the same segment IDs is shown: hidden, filled, outlined."""
    shown, other = node.GetDisplayNode(), other_node.GetDisplayNode()
    if shown is None or other is None:
        return
    shown.CopyContent(other)
    # A check may show the other one as outlines just now.
    restore_outline(node)
    restore_fill(shown)
    shown.RemoveAttribute(CHECK_ATTRIBUTE)


def show_as_labels(label_node, table: Mapping[int, Label], source_node=None) -> None:
    """Colours and names of a label map: those of `source_node`, or of `table`, {value: name and color}. Labels above
    LARGEST_LISTED share one.
    """
    if label_node.GetDisplayNode() is None:
        label_node.CreateDefaultDisplayNodes()
    shown = label_node.GetDisplayNode()
    other = source_node.GetDisplayNode() if source_node is not None else None
    if other is not None and other.GetColorNodeID():
        shown.SetAndObserveColorNodeID(other.GetColorNodeID())
        return
    shown.SetAndObserveColorNodeID(_label_color_node(label_node, table).GetID())


def _label_color_node(label_node, table: Mapping[int, Label]):
    """A colour table made for one label map; an earlier one of that label map is used again."""
    scene = label_node.GetScene()
    node = label_node.GetDisplayNode().GetColorNode()
    if node is None or node.GetAttribute(LABEL_COLORS_ATTRIBUTE) != label_node.GetID():
        node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", f"{label_node.GetName()} colours")
        node.SetAttribute(LABEL_COLORS_ATTRIBUTE, label_node.GetID())
    beyond = [value for value in sorted(table) if value > LARGEST_LISTED]
    rows = max((value for value in table if 0 < value <= LARGEST_LISTED), default=0) + 1
    # Else what shows it would be drawn anew with every row.
    modifying = node.StartModify()
    node.SetTypeToUser()
    node.SetNumberOfColors(rows + bool(beyond))
    node.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
    for value in range(1, rows):
        if value in table:
            node.SetColor(value, table[value].name, *table[value].color, 1.0)
        else:
            node.SetColor(value, "(none)", 0.0, 0.0, 0.0, 0.0)
    if beyond:
        # What lies above a table is shown by its last row.
        first = table[beyond[0]]
        name = first.name if len(beyond) == 1 else f"{len(beyond)} labels above {LARGEST_LISTED}"
        node.SetColor(rows, name, *first.color, 1.0)
    node.EndModify(modifying)
    return node


def show_overlay(background_node, foreground_node, opacity: float = 0.5) -> None:
    """Show one volume over another in every slice view of their scene; opacity 0 to 1."""
    scene = background_node.GetScene()
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        view = scene.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode")
        view.SetBackgroundVolumeID(background_node.GetID())
        view.SetForegroundVolumeID(foreground_node.GetID())
        view.SetForegroundOpacity(opacity)
