"""Colours and overlays, seen through Slicer's own display pipeline without OpenGL."""

from __future__ import annotations

import numpy as np
import pytest
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import mrml_cases as cases
import slicer
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml import display


def shown_colors(values) -> np.ndarray:
    """RGBA (N, 4) in 0..255 that Slicer gives to voxels of these values in a Jacobian volume."""
    array = np.broadcast_to(np.asarray(values, np.float32), (4, 4, len(values))).copy()
    node = slicer.util.addVolumeFromArray(array, name="Jacobian")
    display.show_as_jacobian(node)
    shown = node.GetDisplayNode()
    shown.GetOutputImageDataConnection().GetProducer().Update()
    output = shown.GetOutputImageData()
    return vtk_to_numpy(output.GetPointData().GetScalars()).reshape(4, 4, -1, 4)[2, 2].astype(int)


FOLD = [round(255 * c) for c in display.FOLD_COLOR] + [255]


def test_folds_and_only_folds_have_the_fold_colour(scene):
    colors = shown_colors([-100.0, -0.5, -1e-4, 0.0, 1e-4, 0.01, 0.5, 1.0, 1.5, 2.0, 50.0])
    assert (colors[:4] == FOLD).all()
    assert (colors[4:, :3] != FOLD[:3]).any(axis=1).all()


def test_no_change_is_grey_and_change_is_symmetric_about_one(scene):
    colors = shown_colors([1.0, 0.7, 1.3, 0.9, 1.1])
    assert (colors[:, 3] == 255).all()
    assert (colors[0, :3] == round(255 * display.UNCHANGED_GREY)).all()
    shrink, grow = colors[[1, 3]], colors[[2, 4]]
    assert (shrink[:, 2] > shrink[:, 0]).all()
    assert (grow[:, 0] > grow[:, 2]).all()
    # Mirrored about 1, red and blue change places; values may fall into neighbouring colours.
    assert np.abs(shrink[:, [2, 1, 0, 3]] - grow).max() <= 6


def test_colours_darken_with_the_change(scene):
    colors = shown_colors(np.linspace(1.06, 1.99, 20))
    assert (np.diff(colors[:, :3].sum(axis=1)) < 0).all()


def test_colour_table_is_made_once(scene):
    first = display.jacobian_color_node(scene)
    assert first.GetNumberOfColors() == 256
    assert display.jacobian_color_node(scene) is first


@pytest.mark.parametrize("change", [0.05, 0.2, 1.0, 4.0])
def test_range_of_the_colours_can_be_chosen_and_folds_keep_theirs(scene, change):
    node = slicer.util.addVolumeFromArray(np.ones((4, 4, 4), np.float32), name="Other Jacobian")
    display.show_as_jacobian(node)
    display.set_jacobian_range(node, change)
    # Maps shown before and after share the range.
    low = max(1 - change, 0.02)
    colors = shown_colors([-3.0, 0.0, 1e-4, low, 1.0, 1 + change / 2, 1 + change, 1 + 3 * change])
    assert (colors[:2] == FOLD).all()
    assert (colors[2:, :3] != FOLD[:3]).any(axis=1).all()
    assert (colors[4, :3] == round(255 * display.UNCHANGED_GREY)).all()
    assert node.GetDisplayNode().GetWindowLevelMax() == pytest.approx(display.jacobian_range(change)[1])
    # What is lost altogether counts as a fold, and the least that is left does not.
    assert display.jacobian_color(0.0, change)[:3] == display.FOLD_COLOR != display.jacobian_color(1e-9, change)[:3]
    # Full colour at the end of the range, less half way. A colour spans a hundredth, a fifth of the smallest range.
    darkest = [round(255 * c) for c in display.jacobian_color(100.0, change)[:3]]
    assert np.abs(colors[7, :3] - darkest).max() <= 1
    assert np.abs(colors[6, :3] - darkest).max() <= 25
    assert colors[5, :3].sum() > colors[6, :3].sum() + 60
    with pytest.raises(InputError, match="range must be 0.05 to 10, not 0"):
        display.set_jacobian_range(node, 0.0)


def test_volume_is_shown_like_another(scene):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    one, other, bare = (slicer.util.addVolumeFromArray(array, name=name) for name in "abc")
    other.CreateDefaultDisplayNodes()
    other.GetDisplayNode().AutoWindowLevelOff()
    other.GetDisplayNode().SetWindowLevel(7.0, 3.0)
    other.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeRed")
    display.show_like(one, other)
    shown = one.GetDisplayNode()
    assert (shown.GetWindow(), shown.GetLevel()) == (7.0, 3.0)
    assert shown.GetColorNodeID() == "vtkMRMLColorTableNodeRed"
    bare.SetAndObserveDisplayNodeID(None)
    display.show_like(one, bare)
    assert one.GetDisplayNode().GetAutoWindowLevel()


@pytest.fixture
def red_slice(scene):
    """Slicer's red slice view without a window."""
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(application)
    logic.SetMRMLScene(scene)
    logic.AddSliceNode("Red")
    logic.GetSliceNode().SetDimensions(200, 200, 1)
    logic.application = application
    return logic


def render(logic) -> np.ndarray:
    """The slice as (rows, columns, 4) RGBA."""
    logic.FitSliceToBackground()
    logic.SnapSliceOffsetToIJK()
    logic.UpdatePipeline()
    producer = logic.GetImageDataConnection().GetProducer()
    producer.Update()
    image = producer.GetOutputDataObject(0)
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[1], -1, 4)


def test_overlay_shows_folds_over_anatomy_in_the_slice_view(scene, red_slice):
    grid = cases.centred_grid((20, 40, 40), (2.0, 2.0, 2.0))
    anatomy = cases.add_volume(np.full(grid.shape, 100, np.float32), grid, "Anatomy")
    anatomy.CreateDefaultDisplayNodes()
    anatomy.GetDisplayNode().AutoWindowLevelOff()
    anatomy.GetDisplayNode().SetWindowLevelMinMax(0, 200)
    values = np.ones(grid.shape, np.float32)
    values[:, 10:20, 5:15] = -0.2
    values[:, 10:20, 25:35] = 1.8
    jacobian = cases.add_volume(values, grid, "Jacobian")
    display.show_as_jacobian(jacobian)
    display.show_overlay(anatomy, jacobian, opacity=1.0)
    composite = red_slice.GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == anatomy.GetID()
    assert composite.GetForegroundVolumeID() == jacobian.GetID()
    picture = render(red_slice)[..., :3].reshape(-1, 3).astype(int)
    colors, counts = np.unique(picture, axis=0, return_counts=True)
    found = {tuple(color): count for color, count in zip(colors.tolist(), counts.tolist(), strict=True)}
    # The fold's own colour covers its 20 x 20 mm of an 80 mm view of 200 points.
    assert found[tuple(FOLD[:3])] == pytest.approx((200 * 20 / 80) ** 2, rel=0.1)
    grown = tuple(round(255 * c) for c in display.jacobian_color(1.8)[:3])
    assert min(np.abs(np.array(grown) - color).max() for color in found) <= 3
    grey = [count for color, count in found.items() if max(color) == min(color) == round(255 * display.UNCHANGED_GREY)]
    assert sum(grey) > 0.4 * 200 * 200


def test_label_colours_are_named_after_their_structures(scene):
    grid = cases.centred_grid((4, 4, 4), (1, 1, 1))
    node = cases.add_volume(np.ones(grid.shape, np.uint8), grid, "Labels", "vtkMRMLLabelMapVolumeNode")
    from VoxelMorphRegistrationLib.mrml.labels import Label

    display.show_as_labels(node, {2: Label("Liver", (0.5, 0.25, 0.0))})
    colors = node.GetDisplayNode().GetColorNode()
    assert colors.GetColorName(2) == "Liver"
    rgba = [0.0] * 4
    colors.GetColor(2, rgba)
    assert rgba == pytest.approx([0.5, 0.25, 0.0, 1.0], abs=1 / 255)
    display.show_as_labels(node, {5: Label("Lung", (0.5, 0.25, 0.0))})
    assert node.GetDisplayNode().GetColorNode() is colors
    assert colors.GetColorName(5) == "Lung"
    assert isinstance(colors.GetLookupTable(), vtk.vtkLookupTable)


@pytest.mark.parametrize(
    ("large", "named"), [((3_000_000_000,), "Label 3000000000"), ((70_000, 3_000_000_000), "2 labels above 65535")]
)
def test_large_labels_are_seen_and_their_colours_take_no_room(scene, large, named):
    """Values that no colour table of Slicer could list."""
    values = np.array([0, 3, 2, *large], np.float64).reshape(1, 1, -1)
    grid = cases.centred_grid(values.shape, (1, 1, 1))
    node = cases.add_volume(values, grid, "Labels", "vtkMRMLLabelMapVolumeNode")
    from VoxelMorphRegistrationLib.mrml.labels import Label

    table = {value: Label(f"Label {value}", (0.2, 0.4, 0.6)) for value in large}
    display.show_as_labels(node, {3: Label("Liver", (0.8, 0.2, 0.0)), **table})
    colors = node.GetDisplayNode().GetColorNode()
    assert colors.GetNumberOfColors() == 5 and colors.GetColorName(4) == named
    port = node.GetDisplayNode().GetOutputImageDataConnection()
    port.GetProducer().Update()
    seen = vtk_to_numpy(port.GetProducer().GetOutput().GetPointData().GetScalars())
    none, liver, other = (0, 0, 0, 0), (204, 51, 0, 255), (51, 102, 153, 255)
    np.testing.assert_allclose(seen, [none, liver, none, *[other] * len(large)], atol=1)


@pytest.mark.parametrize("kind", ["nothing known", "vectors"])
def test_a_volume_without_grey_levels_keeps_its_window(scene, kind):
    grey = slicer.util.addVolumeFromArray(np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32))
    shape = (6, 7, 8, 3) if kind == "vectors" else (6, 7, 8)
    value = np.nan if kind == "nothing known" else 1.0
    node_class = "vtkMRMLVectorVolumeNode" if kind == "vectors" else "vtkMRMLScalarVolumeNode"
    other = slicer.util.addVolumeFromArray(np.full(shape, value, np.float32), nodeClassName=node_class)
    assert display.show_with_one_window(other, grey) is False
    assert display.show_with_one_window(grey, other) is False
