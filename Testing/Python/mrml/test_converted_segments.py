"""Segments that are neither label maps nor surfaces: Slicer's own converters bring them onto the volume."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
from segment_cases import SURFACE, add_surfaces
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.mrml.labels import labels_from_node
from VoxelMorphRegistrationLib.mrml.segments_in import _kind
from VoxelMorphRegistrationLib.mrml.segments_out import values_in

FRACTIONS = "Fractional labelmap"
SPHERES = [((-6.0, 2.0, 1.0), 8.0), ((11.0, -1.5, 2.0), 6.0)]


def as_fractions(node):
    """The surfaces of a segmentation as maps of how much of each voxel they fill."""
    segmentation = node.GetSegmentation()
    # Voxels of about 1.5 mm; Slicer would take much smaller ones.
    lattice = cases.centred_grid((24, 24, 32), (1.5, 1.5, 1.5))
    node.SetReferenceImageGeometryParameterFromVolumeNode(
        cases.add_volume(np.zeros(lattice.shape, np.uint8), lattice, "V")
    )
    assert segmentation.CreateRepresentation(FRACTIONS)
    segmentation.SetSourceRepresentationName(FRACTIONS)
    segmentation.RemoveRepresentation(SURFACE)
    return node


def sheared(grid: Grid) -> Grid:
    return Grid(grid.shape, grid.ijk_to_ras @ cases.affine(np.array([[1, 0.2, 0], [0, 1, 0.1], [0, 0, 1]])))


def test_fractions_become_voxels_of_the_volume_and_what_is_empty_is_left_out(scene):
    # Made once: Slicer's conversion takes a second.
    node = as_fractions(add_surfaces(scene, SPHERES))
    straight = [cases.FIXED_GRIDS[name] for name in ("axis aligned", "oblique left-handed")]
    for grid in (*straight, *map(sheared, straight)):
        found = labels_from_node(node, grid)
        assert [label.name for label in found.table.values()] == ["Sphere 0", "Sphere 1"]
        for number, (center, radius) in enumerate(SPHERES, start=1):
            distance = np.linalg.norm(grid.positions() - center, axis=-1)
            voxels = found.image.array == number
            # A voxel's half diagonal and the steps of the conversion.
            assert voxels[distance < radius - 2.5].all() and not voxels[distance > radius + 2.5].any()
            assert voxels.sum() == pytest.approx(np.count_nonzero(distance < radius), rel=0.25)
    node.GetSegmentation().AddEmptySegment("Empty", "Empty")
    found = labels_from_node(node, cases.FIXED_GRIDS["axis aligned"])
    assert set(np.unique(found.image.array)) == {0, 1, 2}


def test_contours_that_nothing_converts_are_told(scene):
    node = add_surfaces(scene, SPHERES)
    segmentation = node.GetSegmentation()
    for number in range(2):
        segment = segmentation.GetNthSegment(number)
        segment.AddRepresentation("Planar contour", segment.GetRepresentation(SURFACE))
        segment.RemoveRepresentation(SURFACE)
    segmentation.SetSourceRepresentationName("Planar contour")
    with pytest.raises(InputError, match=r"'Sphere 0' is of the kind 'Planar contour'.*Segmentations module"):
        labels_from_node(node, cases.FIXED_GRIDS["axis aligned"])


@pytest.mark.parametrize(("count", "kind"), [(1, np.int16), (2**15 - 1, np.int16), (2**15, np.int32)])
def test_numbers_of_segments_fit_their_type(count, kind):
    assert _kind(count) == kind and np.iinfo(_kind(count)).max >= count


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 3, 3, 1], [1, 3]),
        ([0, 0], []),
        ([-2, 0, 5], [5]),
        ([70_000, 2, 0], [2, 70_000]),
        ([65_535, 65_536], [65_535, 65_536]),
    ],
)
def test_values_of_a_plane_are_those_above_zero(values, expected):
    assert values_in(np.array([values], np.int32)) == expected
