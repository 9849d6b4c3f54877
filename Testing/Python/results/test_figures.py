"""The overview picture: its layout, that every side is where the letters say, and what the colours mean."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Picture

from grids import make_grid
from VoxelMorphRegistrationLib.errors import OutputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_image
from VoxelMorphRegistrationLib.images.grid import Grid, working_grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.mrml import display
from VoxelMorphRegistrationLib.registration.report import Report
from VoxelMorphRegistrationLib.registration.result import Registration
from VoxelMorphRegistrationLib.results.colours import FOLD_COLOUR, jacobian_colours
from VoxelMorphRegistrationLib.results.overview import COLUMNS, draw_overview, overview
from VoxelMorphRegistrationLib.results.slices import _slices, page_view


def report(alignment="affine", jacobian="total"):
    stages = {"before": {"ncc": 0.2, "mi": 0.1}, "aligned": {"ncc": 0.5, "mi": 0.3}, "after": {"ncc": 0.9, "mi": 0.8}}
    inside = {"count": 0, "any_corner_count": 0, "voxels": 1000}
    return Report(
        similarity=stages,
        folding={"inside": inside, "volume": {"count": 0, "voxels": 2000}},
        largest_displacement_mm=1.0,
        linear=np.eye(4).tolist(),
        seconds={"total": 1.0},
        model={"name": "test", "file": None},
        settings={"alignment": alignment, "jacobian": jacobian, "background": None},
    )


def registered(fixed, moving, displacement=None, linear=None, warped_labels=None):
    """A registration with a given field, as the pipeline would return it."""
    linear = np.eye(4) if linear is None else linear
    field = displacement or DisplacementField.identity(fixed.grid)
    warped = warp_image(moving, fixed.grid, field, linear)
    return Registration(field, linear, warped, field.jacobian_determinant(fixed.grid), report(), warped_labels)


def head(grid, markers=()):
    """An ellipsoid of intensity 100 with texture, and bright balls of 300 at positions relative to its semi-axes."""
    extent = grid.spacing * grid.size
    relative = (grid.positions() - grid.center_ras) @ grid.directions / (0.42 * extent)
    radius = np.linalg.norm(relative, axis=-1)
    texture = 25 * np.sin(5 * relative[..., 0]) + 25 * np.cos(4 * relative[..., 1:].sum(-1))
    values = np.where(radius < 1, 100 + texture, 0)
    for place in markers:
        distance = np.linalg.norm(grid.positions() - place, axis=-1)
        values[distance < 0.08 * extent.min()] = 300
    return Image(values.astype(np.float32), grid, "head")


def brightest(panel):
    """Centre of the brightest pixels in fractions of the panel (down, right)."""
    grey = panel.astype(float).sum(-1)
    return np.argwhere(grey > 0.98 * grey.max()).mean(0) / grey.shape


def axis_nearest(grid, direction_ras):
    """The unit grid axis, either sign, closest to an RAS direction."""
    along = grid.directions.T @ np.asarray(direction_ras, float)
    best = int(np.abs(along).argmax())
    return grid.directions[:, best] * np.sign(along[best])


def towards(grid, sides):
    """A place in a central plane of the grid, off the centre towards two RAS directions."""
    extent = float((grid.spacing * grid.size).min())
    return grid.center_ras + sum(0.22 * extent * axis_nearest(grid, side) for side in sides)


RIGHT, ANTERIOR, SUPERIOR = np.eye(3)
GRIDS = {
    "axis aligned": Grid((40, 44, 48), np.diag([2.0, 2.0, 2.0, 1.0])),
    "oblique, left-handed, anisotropic": make_grid((48, 40, 30), (1.0, 1.3, 1.8), (12, -18, 25), True, (7, -20, 4)),
}


# Each ball lies in one central plane only. Expected: (lower half, right half) of the panel.
BALLS = {
    "first": {
        "axial": ((RIGHT, ANTERIOR), [0, 0]),
        "coronal": ((-RIGHT, SUPERIOR), [0, 1]),
        "sagittal": ((-ANTERIOR, -SUPERIOR), [1, 1]),
    },
    "second": {
        "axial": ((-RIGHT, -ANTERIOR), [1, 1]),
        "coronal": ((RIGHT, -SUPERIOR), [1, 0]),
        "sagittal": ((ANTERIOR, SUPERIOR), [0, 0]),
    },
}


@pytest.mark.parametrize("balls", BALLS.values(), ids=BALLS.keys())
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_sides_are_radiological_on_any_grid(grid, balls):
    image = head(grid, [towards(grid, sides) for sides, _ in balls.values()])
    drawn = draw_overview(registered(image, image), image, image)
    for plane, (_, expected) in balls.items():
        place = brightest(drawn.panel(plane, "warped"))
        assert (place > 0.5).astype(int).tolist() == expected
        assert np.abs(place - 0.5).min() > 0.1


def test_letters_name_the_edges_of_every_plane():
    _, page = page_view(np.zeros((4, 5, 6)), Grid((4, 5, 6), np.diag([1.0, 1.0, 1.0, 1.0])))
    planes = _slices(page, np.ones(page.shape, bool))
    letters = {plane.name: plane.letters() for plane in planes}
    assert letters["axial"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert letters["coronal"] == {"left": "R", "right": "L", "top": "S", "bottom": "I"}
    assert letters["sagittal"] == {"left": "A", "right": "P", "top": "S", "bottom": "I"}


def test_strongly_tilted_edges_get_two_letters_and_the_angle():
    angle = np.radians(30)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    _, page = page_view(np.zeros((4, 5, 6)), Grid((4, 5, 6), matrix))
    axial, coronal, _ = _slices(page, np.ones(page.shape, bool))
    assert axial.letters()["left"] == "RA"
    assert axial.title == "axial"
    assert coronal.title == "coronal, tilted 30°"


def test_page_view_keeps_every_voxel_in_its_place():
    grid = GRIDS["oblique, left-handed, anisotropic"]
    array = np.arange(grid.voxel_count).reshape(grid.shape)
    view, page = page_view(array, grid)
    assert page.orientation == "LPI"
    index = np.random.default_rng(0).integers(0, page.size, (50, 3))
    source = np.rint(grid.to_ijk(page.to_ras(index))).astype(int)
    expected = array[source[:, 2], source[:, 1], source[:, 0]]
    np.testing.assert_array_equal(view[index[:, 2], index[:, 1], index[:, 0]], expected)


def test_anisotropic_voxels_keep_their_proportions():
    grid = Grid((20, 60, 60), np.diag([1.0, 1.0, 3.0, 1.0]))
    ball = np.linalg.norm(grid.positions() - grid.center_ras, axis=-1) < 20
    image = Image(np.where(ball, 100.0, 0.0).astype(np.float32), grid)
    drawn = draw_overview(registered(image, image), image, image)
    for plane in ("axial", "coronal", "sagittal"):
        bright = drawn.panel(plane, "warped")[..., 0] > 128
        height, width = (np.ptp(np.flatnonzero(bright.any(axis))) for axis in (1, 0))
        # A voxel of 3 mm is 15 % of the ball's 40 mm; half of it may be lost or gained at the ends.
        assert abs(height / width - 1) < 0.08


def test_panels_have_all_planes_and_columns_side_by_side():
    image = head(GRIDS["axis aligned"])
    drawn = draw_overview(registered(image, image), image, image)
    assert set(drawn.panels) == {(p, c) for p in ("axial", "coronal", "sagittal") for c in COLUMNS}
    for plane in ("axial", "coronal", "sagittal"):
        boxes = [drawn.panels[plane, column] for column in COLUMNS]
        assert len({(box[1], box[3]) for box in boxes}) == 1
        assert all(a[2] <= b[0] for a, b in itertools.pairwise(boxes))
    assert drawn.panels["axial", "fixed"][3] <= drawn.panels["coronal", "fixed"][1]
    assert max(box[2] for box in drawn.panels.values()) <= drawn.picture.width


@pytest.mark.parametrize(("flat", "plane"), [(0, "axial"), (1, "coronal"), (2, "sagittal")])
def test_2d_image_gives_one_row_with_its_plane(flat, plane):
    shape = [40, 44, 48]
    shape[flat] = 1
    image = head(Grid(tuple(shape), np.eye(4)))
    drawn = draw_overview(registered(image, image), image, image)
    assert set(drawn.panels) == {(plane, column) for column in COLUMNS}


def test_moving_panel_shows_the_linear_stage():
    fixed = head(GRIDS["axis aligned"])
    matrix = np.eye(4)
    matrix[:3, 3] = [25, -13, 8]
    matrix[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    moving = Image(fixed.array, fixed.grid.transformed(matrix), "moving")
    bend = DisplacementField(np.full((*fixed.grid.shape, 3), [0, 3.0, 0], np.float32), fixed.grid)
    drawn = draw_overview(registered(fixed, moving, bend, matrix), fixed, moving)
    # Intensities are matched to the warped image, so that a faint rest remains where the aligned one is the fixed.
    assert drawn.panel("axial", "before").max() < 70
    assert drawn.panel("axial", "after").max() > 100


def test_difference_vanishes_when_only_the_intensity_scale_differs():
    fixed = head(GRIDS["axis aligned"])
    moving = fixed.with_array(fixed.array * 7 + 30)
    shifted = np.eye(4)
    shifted[0, 3] = 6.0
    bend = DisplacementField(np.full((*fixed.grid.shape, 3), [-6.0, 0, 0], np.float32), fixed.grid)
    drawn = draw_overview(registered(fixed, moving, bend, shifted), fixed, moving)
    before, after = (drawn.panel("axial", column).astype(int).max(-1) for column in ("before", "after"))
    assert np.mean(before > 100) > 0.05
    # The last voxels that leave the field of view aside.
    assert np.mean(after > 40) < 0.01


def test_unlike_contrasts_get_a_checkerboard():
    fixed = head(GRIDS["axis aligned"])
    noise = np.random.default_rng(0).uniform(50, 150, fixed.grid.shape)
    moving = fixed.with_array(np.where(fixed.array > 0, noise, 0).astype(np.float32))
    drawn = draw_overview(registered(fixed, moving), fixed, moving)
    board = drawn.panel("axial", "after").astype(int)
    assert np.ptp(board, axis=-1).max() == 0
    sources = [drawn.panel("axial", name).astype(int) for name in ("fixed", "warped")]
    own = [np.mean((board == source).all(-1)) for source in sources]
    assert min(own) > 0.4


# --- the Jacobian ---------------------------------------------------------------------------------------------------


def test_jacobian_colours_are_blue_white_red_with_green_folds():
    shrink, one, grow, fold, zero = jacobian_colours(np.array([0.6, 1.0, 1.7, -0.3, 0.0])).astype(int)
    assert shrink[2] > shrink[0] + 50
    assert grow[0] > grow[2] + 50
    assert one.tolist() == [255, 255, 255]
    assert fold.tolist() == zero.tolist() == list(FOLD_COLOUR)


def test_fold_colour_is_the_one_shown_in_slicer_and_no_determinant_looks_like_it():
    assert tuple(np.array(FOLD_COLOUR) / 255) == display.FOLD_COLOR
    colours = jacobian_colours(np.geomspace(0.01, 100, 500)).astype(int)
    assert np.abs(colours - FOLD_COLOUR).max(-1).min() > 100


def folded_field(grid, index_kji):
    """A field whose determinant is negative at one voxel: its two neighbours along i change places."""
    k, j, i = index_kji
    flow = np.zeros((3, *grid.shape), np.float32)
    flow[2, k, j, i - 1], flow[2, k, j, i + 1] = 2.5, -2.5
    return DisplacementField.from_voxels(flow, grid)


def is_fold(panel):
    return (panel == FOLD_COLOUR).all(-1)


def test_folds_are_drawn_in_their_colour_at_their_place():
    grid = GRIDS["axis aligned"]
    image = head(grid)
    # The middle lies between two slices; either may be shown.
    middle = [n // 2 for n in grid.shape]
    upper, lower = (folded_field(grid, (middle[0] - n, middle[1] + 8, middle[2] + 9)) for n in (0, 1))
    field = DisplacementField(upper.displacement_ras + lower.displacement_ras, grid)
    drawn = draw_overview(registered(image, image, field), image, image)
    green = np.argwhere(is_fold(drawn.panel("axial", "jacobian")))
    shape = np.array(drawn.panel("axial", "jacobian").shape[:2])
    # Anterior and right of the centre: up and left on the page.
    assert len(green) > 0
    assert (green.mean(0) / shape < 0.5).all()
    assert not is_fold(drawn.panel("axial", "warped")).any()


def test_a_jacobian_map_of_larger_voxels_is_drawn_at_its_place():
    grid = GRIDS["axis aligned"]
    image = head(grid)
    found = registered(image, image)
    coarse = working_grid(grid, 2 * grid.spacing)
    values = np.ones(coarse.shape, np.float32)
    right = coarse.positions()[..., 0] > grid.center_ras[0]
    values[right] = -1.0
    panel = draw_overview(replace(found, jacobian=Image(values, coarse)), image, image).panel("axial", "jacobian")
    columns = np.argwhere(is_fold(panel))[:, 1] / panel.shape[1]
    # The patient's right is on the left of the picture.
    assert columns.min() < 0.1 and columns.max() < 0.6


def test_no_fold_colour_without_folds():
    image = head(GRIDS["axis aligned"])
    drawn = draw_overview(registered(image, image), image, image)
    assert not any(is_fold(drawn.panel(plane, "jacobian")).any() for plane in ("axial", "coronal", "sagittal"))


def test_one_folded_voxel_stays_visible_in_a_large_image():
    grid = Grid((1, 900, 900), np.eye(4))
    image = head(grid)
    field = folded_field(grid, (0, 401, 507))
    drawn = draw_overview(registered(image, image, field), image, image)
    assert is_fold(drawn.panel("axial", "jacobian")).any()


def test_growth_is_red_and_shrinkage_blue_over_the_anatomy():
    grid = GRIDS["axis aligned"]
    image = head(grid)
    for factor, channel in ((1.3, 0), (0.75, 2)):
        centred = (grid.positions() - grid.center_ras) * (factor - 1)
        field = DisplacementField(centred.astype(np.float32), grid)
        panel = draw_overview(registered(image, image, field), image, image).panel("axial", "jacobian")
        mean = panel.reshape(-1, 3).astype(float).mean(0)
        assert mean.argmax() == channel
        assert mean[channel] > mean[2 - channel] + 40


# --- labels and files -----------------------------------------------------------------------------------------------


def test_label_outlines_appear_on_fixed_and_warped():
    grid = GRIDS["axis aligned"]
    image = head(grid)
    labels = Image((image.array > 0).astype(np.uint8) * 3, grid, "labels")
    plain = draw_overview(registered(image, image), image, image)
    outlined = draw_overview(registered(image, image, warped_labels=labels), image, image, labels)
    for column in ("fixed", "warped"):
        changed = (plain.panel("axial", column) != outlined.panel("axial", column)).any(-1)
        assert 0.001 < changed.mean() < 0.05
    np.testing.assert_array_equal(plain.panel("axial", "moving"), outlined.panel("axial", "moving"))


def test_png_is_written_whole_and_replaces_an_older_one(tmp_path):
    image = head(GRIDS["axis aligned"])
    path = tmp_path / "overview.png"
    path.write_bytes(b"old")
    overview(registered(image, image), image, image, path)
    with Picture.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["overview.png"]


def test_unwritable_place_is_an_output_error_and_leaves_nothing(tmp_path):
    image = head(GRIDS["axis aligned"])
    with pytest.raises(OutputError, match="could not be written"):
        overview(registered(image, image), image, image, tmp_path / "missing" / "overview.png")
    folder = tmp_path / "taken.png"
    folder.mkdir()
    with pytest.raises(OutputError, match="could not be written"):
        overview(registered(image, image), image, image, folder)
    assert [p.name for p in tmp_path.iterdir()] == ["taken.png"]


def test_nan_and_constant_images_are_drawn():
    fixed = head(GRIDS["axis aligned"])
    holes = fixed.array.copy()
    holes[5:8] = np.nan
    flat = fixed.with_array(np.ones(fixed.grid.shape, np.float32))
    drawn = draw_overview(registered(fixed, flat), fixed.with_array(holes), flat)
    assert np.ptp(drawn.panel("axial", "fixed").astype(int)) > 100
