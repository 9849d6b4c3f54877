"""How results are shown: the Jacobian's colours, window and level, label colours, slice layers.

Knows MRML display and colour nodes; computes nothing about registration.
"""

from __future__ import annotations

from collections.abc import Mapping

JACOBIAN_COLORS_ATTRIBUTE = "VoxelMorph.JacobianColors"
LABEL_COLORS_ATTRIBUTE = "VoxelMorph.LabelColors"
FOLD_COLOR = (0.0, 1.0, 0.0)
CLEAR_WITHIN = 0.05

_ENTRIES = 256
# Slicer maps a value v to colour floor(255 (v - low) / (high - low)). With a range of width 2 that starts 2/255
# below zero, colour 0 holds exactly the determinants <= 0 and the middle of colour 128 is a determinant of 1.
_WIDTH = 2.0
_STEP = _WIDTH / (_ENTRIES - 1)
# Moves the first boundary just above zero, so that a determinant of exactly 0 counts as folded.
_NUDGE = 1e-6
JACOBIAN_RANGE = (-_STEP + _NUDGE, _WIDTH - _STEP + _NUDGE)
_UNCHANGED = 128


def jacobian_color(determinant: float) -> tuple[float, float, float, float]:
    """RGBA in [0, 1] for a determinant: blue where a region of the fixed image is smaller in the moving one, red
    where it is larger, linear in |det - 1| up to 0 and 2; FOLD_COLOR where det <= 0.

    Clear within CLEAR_WITHIN of 1. Slicer's slice views know no half-clear colours: alpha is 0 or 1.
    """
    if determinant <= 0:
        return (*FOLD_COLOR, 1.0)
    strength = min(abs(determinant - 1.0), 1.0)
    if strength < CLEAR_WITHIN:
        return (1.0, 1.0, 1.0, 0.0)
    # White to the pure colour at a change by half, darker beyond: small and large changes stay apart.
    fade = max(0.0, 1.0 - 2.0 * strength)
    dark = 1.0 - 0.5 * max(0.0, 2.0 * strength - 1.0)
    middle = 0.25 * (1.0 - strength) + 0.75 * fade
    return (fade, middle, dark, 1.0) if determinant < 1 else (dark, middle, fade, 1.0)


def jacobian_color_node(scene):
    """The scene's colour table for Jacobian maps, made on first use."""
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")):
        node = scene.GetNthNodeByClass(n, "vtkMRMLColorTableNode")
        if node.GetAttribute(JACOBIAN_COLORS_ATTRIBUTE):
            return node
    node = scene.CreateNodeByClass("vtkMRMLColorTableNode")
    node.UnRegister(None)
    node.SetName("Jacobian (1 = unchanged)")
    node.SetAttribute("Category", "VoxelMorph")
    node.SetAttribute(JACOBIAN_COLORS_ATTRIBUTE, "1")
    node.SetTypeToUser()
    node.SetNumberOfColors(_ENTRIES)
    node.SetColor(0, "fold (0 or less)", *FOLD_COLOR, 1.0)
    for entry in range(1, _ENTRIES):
        determinant = 1.0 + (entry - _UNCHANGED) * _STEP
        node.SetColor(entry, f"{determinant:.3f}", *jacobian_color(determinant))
    return scene.AddNode(node)


def show_as_jacobian(volume_node) -> None:
    """Give a Jacobian volume its colours, centred on 1; voxels are not blended, so that each fold keeps its colour."""
    if volume_node.GetDisplayNode() is None:
        volume_node.CreateDefaultDisplayNodes()
    shown = volume_node.GetDisplayNode()
    shown.AutoWindowLevelOff()
    shown.SetWindowLevelMinMax(*JACOBIAN_RANGE)
    shown.SetInterpolate(0)
    shown.ApplyThresholdOff()
    shown.SetAndObserveColorNodeID(jacobian_color_node(volume_node.GetScene()).GetID())


def show_like(volume_node, other_node) -> None:
    """Give a volume the window, level and colours of another one."""
    if volume_node.GetDisplayNode() is None:
        volume_node.CreateDefaultDisplayNodes()
    shown, other = volume_node.GetDisplayNode(), other_node.GetDisplayNode()
    if other is None:
        shown.AutoWindowLevelOn()
        return
    shown.SetAndObserveColorNodeID(other.GetColorNodeID())
    # The values outside the moving image would disturb an automatic window, so its present range is taken over.
    shown.AutoWindowLevelOff()
    shown.SetWindowLevel(other.GetWindow(), other.GetLevel())


def show_as_labels(label_node, table: Mapping[int, object], source_node=None) -> None:
    """Colours and names of a label map: those of `source_node`, or of `table`, {value: name and color}."""
    if label_node.GetDisplayNode() is None:
        label_node.CreateDefaultDisplayNodes()
    shown = label_node.GetDisplayNode()
    other = source_node.GetDisplayNode() if source_node is not None else None
    if other is not None and other.GetColorNodeID():
        shown.SetAndObserveColorNodeID(other.GetColorNodeID())
        return
    shown.SetAndObserveColorNodeID(_label_color_node(label_node, table).GetID())


def _label_color_node(label_node, table: Mapping[int, object]):
    """A colour table made for one label map; an earlier one of that label map is used again."""
    scene = label_node.GetScene()
    node = label_node.GetDisplayNode().GetColorNode()
    if node is None or node.GetAttribute(LABEL_COLORS_ATTRIBUTE) != label_node.GetID():
        node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", f"{label_node.GetName()} colours")
        node.SetAttribute(LABEL_COLORS_ATTRIBUTE, label_node.GetID())
    node.SetTypeToUser()
    node.SetNumberOfColors(max(table, default=0) + 1)
    node.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
    for value in range(1, node.GetNumberOfColors()):
        if value in table:
            node.SetColor(value, table[value].name, *table[value].color, 1.0)
        else:
            node.SetColor(value, "(none)", 0.0, 0.0, 0.0, 0.0)
    return node


def show_overlay(background_node, foreground_node, opacity: float = 0.5) -> None:
    """Show one volume over another in every slice view of their scene; opacity 0 to 1."""
    scene = background_node.GetScene()
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        view = scene.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode")
        view.SetBackgroundVolumeID(background_node.GetID())
        view.SetForegroundVolumeID(foreground_node.GetID())
        view.SetForegroundOpacity(opacity)
