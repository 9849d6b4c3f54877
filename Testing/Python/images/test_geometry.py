import numpy as np
import pytest
import SimpleITK as sitk
import torch

from grids import KINDS, make_grid, rotation, smooth_function, smooth_image
from VoxelMorphRegistrationLib.errors import InputError, OutputError
from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.images.files import from_sitk, grid_from_sitk, read_image, to_sitk, write_image
from VoxelMorphRegistrationLib.images.grid import Grid, orthogonalised, reoriented, some_voxels, working_grid
from VoxelMorphRegistrationLib.images.image import Image, resample


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_and_positions_invert_each_other(kind):
    grid = make_grid(**KINDS[kind])
    ijk = np.random.default_rng(0).uniform(-5, 50, (50, 3))
    np.testing.assert_allclose(grid.to_ijk(grid.to_ras(ijk)), ijk, atol=1e-9)


def test_positions_follow_array_order():
    grid = make_grid((5, 4, 3), (1, 2, 3))
    np.testing.assert_allclose(grid.positions()[2, 1, 4], grid.to_ras([4, 1, 2]))


@pytest.mark.parametrize(("matrix", "code"), [(np.eye(3), "RAS"), (np.diag([-1, -1, 1]), "LPS")])
def test_orientation_code(matrix, code):
    full = np.eye(4)
    full[:3, :3] = matrix
    assert Grid((3, 4, 5), full).orientation == code


@pytest.mark.parametrize("code", ["RAS", "LIA", "PSR", "ILA", "SAL"])
@pytest.mark.parametrize("kind", KINDS)
def test_reoriented_grid_has_the_same_voxels(kind, code):
    grid = make_grid(**{**KINDS[kind], "size_ijk": (6, 5, 4)})
    other = reoriented(grid, code)
    assert other.orientation == code
    own = {tuple(p) for p in np.round(grid.positions().reshape(-1, 3), 6)}
    assert {tuple(p) for p in np.round(other.positions().reshape(-1, 3), 6)} == own


def test_unknown_orientation_is_refused():
    with pytest.raises(InputError, match="'RLS' is not an orientation"):
        reoriented(make_grid((4, 4, 4)), "RLS")


@pytest.mark.parametrize("spacing", [None, 1.0, 2.0, 0.7, (1.5, 2.5, 3.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_working_grid_covers_every_voxel_edge(kind, spacing):
    grid = make_grid(**KINDS[kind])
    work = working_grid(grid, spacing, 16, "LIA")
    assert all(n % 16 == 0 for n in work.shape)
    assert work.contains(grid.corners()).all()


def test_working_grid_at_the_own_spacing_shares_voxel_centres():
    grid = make_grid((37, 30, 21), (1.1, 1.4, 2.2), (10, 20, 30), left_handed=True)
    work = working_grid(grid, (2.2, 1.1, 1.4), 16, "SRA")
    ijk = grid.to_ijk(work.to_ras(np.array([[0, 0, 0], [3, 4, 5]])))
    np.testing.assert_allclose(ijk, np.round(ijk), atol=1e-9)


def test_working_grid_of_a_slice_stays_a_slice():
    work = working_grid(make_grid((30, 1, 20)), 1.5, 16)
    assert work.dimension == 2 and work.shape == (16, 1, 32)


def test_orthogonalised_grid_covers_a_sheared_one():
    grid = make_grid((20, 24, 16), (1, 1.5, 2), (10, 0, 20))
    shear = np.eye(4)
    shear[0, 1] = 0.3
    sheared = grid.transformed(shear)
    assert not sheared.is_orthogonal
    result = orthogonalised(sheared)
    assert result.is_orthogonal and result.contains(sheared.corners()).all()


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_resampling_between_any_grids_keeps_positions(source, target):
    image = smooth_image(make_grid(**KINDS[source]))
    grid = make_grid(**KINDS[target])
    result = resample(image, grid, background=np.nan)
    inner = grid.positions()[~np.isnan(result.array)]
    assert len(inner) > 1000
    inside = np.all((image.grid.to_ijk(inner) >= 0) & (image.grid.to_ijk(inner) <= image.grid.size - 1), axis=-1)
    error = np.abs(result.array[~np.isnan(result.array)] - smooth_function(inner))[inside]
    # Linear interpolation errs by h^2/8 times the second derivative, at most 160/36 per mm^2 an axis.
    bound = sum(160 / 36 * (h / 1.0) ** 2 / 8 for h in image.grid.spacing)
    assert error.max() < bound


def test_resampling_applies_the_matrix_from_output_to_source():
    grid = make_grid((40, 40, 40))
    image = smooth_image(make_grid((60, 60, 60)))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((5, 10, -8)) * 1.05
    matrix[:3, 3] = (2, -3, 1)
    result = resample(image, grid, matrix)
    expected = smooth_function(grid.positions() @ matrix[:3, :3].T + matrix[:3, 3])
    assert np.abs(result.array - expected).max() < 3 * 160 / 36 / 8


def test_resampling_onto_the_own_grid_changes_nothing():
    image = smooth_image(make_grid(**KINDS["oblique, anisotropic, left-handed"]))
    result = resample(image, image.grid, smooth=True)
    np.testing.assert_allclose(result.array, image.array, rtol=1e-4, atol=0.05)


def test_smoothing_before_downsampling_suppresses_fine_stripes():
    grid = make_grid((64, 64, 64))
    stripes = np.broadcast_to(np.arange(64) % 2 * 100.0, (64, 64, 64)).copy()
    coarse = working_grid(grid, 4.0)
    result = resample(Image(stripes, grid), coarse, smooth=True).array[2:-2, 2:-2, 2:-2]
    assert np.abs(result - 50).max() < 1


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_keep_values_and_geometry(kind, suffix, tmp_path):
    image = smooth_image(make_grid(**KINDS[kind]))
    write_image(image, tmp_path / f"a{suffix}")
    back = read_image(tmp_path / f"a{suffix}")
    assert back.grid.same_as(image.grid, 1e-3)
    np.testing.assert_array_equal(back.array, image.array)


def test_grid_agrees_with_simpleitk():
    image = to_sitk(smooth_image(make_grid(**KINDS["oblique, anisotropic, left-handed"])))
    lps = np.array(image.TransformIndexToPhysicalPoint((3, 5, 7)))
    np.testing.assert_allclose(grid_from_sitk(image).to_ras([3, 5, 7]), lps * [-1, -1, 1], atol=1e-9)


def test_two_dimensional_file_becomes_a_single_slice(tmp_path):
    image = sitk.GetImageFromArray(np.arange(20, dtype=np.uint8).reshape(4, 5))
    sitk.WriteImage(image, str(tmp_path / "a.png"))
    read = read_image(tmp_path / "a.png")
    assert read.grid.dimension == 2 and read.array.shape == (1, 4, 5)


def test_dicom_folder_is_read(tmp_path):
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 1000, (4, 8, 6)).astype(np.int16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(4):
        slice_ = sitk.GetImageFromArray(volume[k])
        for key, value in {
            "0008|0060": "MR",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|0032": f"0\\0\\{3 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k),
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.1.{k + 1}",
        }.items():
            slice_.SetMetaData(key, value)
        writer.SetFileName(str(tmp_path / f"{k}.dcm"))
        writer.Execute(slice_)
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.array, volume)
    np.testing.assert_allclose(image.grid.spacing, [1, 1, 3])


def test_missing_file_is_named():
    with pytest.raises(InputError, match="The fixed image cannot be read: there is no file nowhere.nii"):
        read_image("nowhere.nii", "fixed image")


def test_damaged_file_is_refused(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"not an image")
    with pytest.raises(InputError, match="no image in a format known here"):
        read_image(tmp_path / "a.nrrd")


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no DICOM image"):
        read_image(tmp_path)


def test_colour_image_is_refused():
    image = sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3)
    with pytest.raises(InputError, match="3 values a voxel"):
        from_sitk(image, "fixed image")


def test_time_series_is_refused():
    with pytest.raises(InputError, match="6 frames"):
        from_sitk(sitk.Image([4, 4, 4, 6], sitk.sitkInt16), "moving image")


def test_series_of_one_frame_is_an_image():
    assert from_sitk(sitk.Image([4, 5, 6, 1], sitk.sitkInt16)).array.shape == (6, 5, 4)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_bad_matrix_is_refused(bad):
    with pytest.raises(InputError):
        Grid((4, 4, 4), bad)


def test_coinciding_axes_are_refused():
    matrix = np.eye(4)
    matrix[:3, 1] = matrix[:3, 0]
    with pytest.raises(InputError, match="singular"):
        Grid((4, 4, 4), matrix)


def test_sheared_grid_is_not_written_as_if_it_were_straight(tmp_path):
    matrix = np.eye(4)
    matrix[0, 1] = 0.2
    with pytest.raises(InputError, match="sheared"):
        write_image(Image(np.zeros((4, 4, 4)), Grid((4, 4, 4), matrix)), tmp_path / "a.nii")


def test_unwritable_place_is_told(tmp_path):
    image = smooth_image(make_grid((8, 8, 8)))
    with pytest.raises(OutputError, match="could not be written"):
        write_image(image, tmp_path / "missing" / "a.nii.gz")


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("axes", [((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((0, 0, 1), (-1, 0, 0), (0, -1, 0))])
def test_axis_by_axis_is_what_interpolating_everywhere_gives(axes, smooth, monkeypatch):
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(axes) @ np.diag([1.2, 0.9, 2.0])
    matrix[:3, 3] = matrix[:3, :3] @ [-10, -9, -8]
    image = Image(np.random.default_rng(0).random((17, 20, 23), np.float32), Grid((17, 20, 23), matrix))
    wide = np.diag([-1.5, 1.1, 2.3, 1.0])
    wide[:3, 3] = [30.0, -28.0, -26.0]
    grid = Grid((24, 50, 40), wide)
    of, readers = sampling.AxisReader.of, []
    monkeypatch.setattr(sampling.AxisReader, "of", lambda *arguments: readers.append(of(*arguments)) or readers[-1])
    quick = resample(image, grid, background=-3.0, smooth=smooth).array
    # The quick way was taken.
    assert len(readers) == 1 and readers[0] is not None
    monkeypatch.setattr(sampling.AxisReader, "of", lambda *arguments: None)
    everywhere = resample(image, grid, background=-3.0, smooth=smooth).array
    assert 0.01 < np.mean(quick != -3.0) < 0.99
    np.testing.assert_array_equal(quick == -3.0, everywhere == -3.0)
    np.testing.assert_allclose(quick, everywhere, atol=2e-5)


@pytest.mark.parametrize(
    ("step", "first"),
    [((1, 1, 1), (2, 1, 0)), ((2, 1, 3), (0, 0, 1)), ((1, 1, 1), (-3, 2, -1)), ((-1, 2, -2), (20, 0, 15))],
)
def test_voxels_of_the_source_are_read_as_they_are_and_the_border_beyond(step, first):
    volume = torch.from_numpy(np.random.default_rng(0).random((2, 14, 17, 22), np.float32))
    matrix = np.diag([*step, 1.0])
    matrix[:3, 3] = first
    shape = (6, 8, 9)
    reader = sampling.AxisReader.of(volume, matrix, shape)
    everywhere = sampling.sample(volume[None], sampling.affine_positions(matrix, shape, slice(2, 5))[None])[0]
    np.testing.assert_allclose(reader(slice(2, 5)), everywhere, atol=1e-5)
    expected = volume.numpy()
    for axis, count in enumerate(shape):
        voxels = first[2 - axis] + step[2 - axis] * np.arange(count)
        expected = expected.take(voxels.clip(0, volume.shape[1 + axis] - 1), 1 + axis)
    np.testing.assert_array_equal(reader(slice(0, 6)), expected)


def test_a_voxel_that_is_not_finite_spoils_only_its_surroundings():
    array = np.ones((8, 8, 8), np.float32)
    array[2, 2, 2] = np.nan
    half = np.diag([1.5, 1.5, 1.5, 1.0])
    found = resample(Image(array, Grid((8, 8, 8), np.eye(4))), Grid((5, 5, 5), half)).array
    assert 0 < np.isnan(found).sum() <= 8


def test_voxels_of_very_unlike_sizes_make_a_grid_and_flat_ones_do_not():
    grid = make_grid((3, 3, 3), (0.001, 1.0, 1000.0), (20, 30, 40))
    assert grid.spacing == pytest.approx((0.001, 1.0, 1000.0))
    flat = grid.ijk_to_ras.copy()
    flat[:3, 2] = flat[:3, 0] + flat[:3, 1]
    with pytest.raises(InputError):
        Grid((3, 3, 3), flat)


def test_a_two_dimensional_file_is_as_thick_as_its_pixels_are_wide():
    image = sitk.Image([4, 5], sitk.sitkFloat32)
    image.SetSpacing((2.0, 4.0))
    assert grid_from_sitk(image).spacing == pytest.approx((2.0, 4.0, 3.0))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("turn", [(0, 0, 0), (7, -4, 12)])
def test_a_part_of_an_image_is_resampled_as_the_whole(smooth, turn, monkeypatch):
    rng = np.random.default_rng(0)
    image = Image(rng.random((30, 34, 38)).astype(np.float32), make_grid((38, 34, 30), (1.0, 1.1, 1.2), turn))
    centre = image.grid.to_ras([20, 15, 12])
    matrix = np.diag([2.3, 2.1, 2.6, 1.0])
    matrix[:3, 3] = centre - [7, 4, 3]
    # Six planes within it, and some that reach beyond it.
    for start, size in (((0, 0, 0), (6, 4, 3)), ((5, 2, 1), (20, 4, 3))):
        grid = Grid((3, 4, 6), matrix).cropped(start, size)
        found = resample(image, grid, None, -1.0, smooth).array
        with monkeypatch.context() as all_of_it:
            all_of_it.setattr("VoxelMorphRegistrationLib.images.image._near", lambda image, *_: image)
            np.testing.assert_allclose(found, resample(image, grid, None, -1.0, smooth).array, atol=1e-4)


def test_a_plane_of_a_large_image_needs_no_copy_of_all(monkeypatch):
    image = Image(np.zeros((60, 50, 40), np.int16), make_grid((40, 50, 60)))
    plane = image.grid.cropped((0, 0, 30), (40, 50, 1)).transformed(np.diag([1, 1, 1.001, 1]))
    seen = []
    copy = np.require
    monkeypatch.setattr(np, "require", lambda array, *how: seen.append(array.size) or copy(array, *how))
    resample(image, plane)
    assert seen and max(seen) < image.array.size / 4


@pytest.mark.parametrize("count", [7, 50, 10_000])
def test_some_voxels_are_taken_evenly(count):
    mask = np.random.default_rng(0).random((9, 8, 7)) > 0.6
    places = np.argwhere(mask)
    np.testing.assert_array_equal(some_voxels(mask, count), places[:: max(1, len(places) // count)])
    assert some_voxels(np.zeros((3, 4, 5), bool), count).shape == (0, 3)
