import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from grids import make_grid, rotation, smooth_displacement
from transform_cases import apart, by_sitk, chain_of, lps_image, setting
from VoxelMorphRegistrationLib.errors import InputError, OutputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.transforms.chain import Chain
from VoxelMorphRegistrationLib.transforms.parts import Bent, Matrix
from VoxelMorphRegistrationLib.transforms.reading import Named, read_chain, read_transform
from VoxelMorphRegistrationLib.transforms.writing import Sides, write_transform

ODD = "oblique, anisotropic, left-handed"
sound = pytest.mark.usefixtures("readers_here")


def some_matrix() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((17, -11, 28)) @ np.diag([1.1, 0.9, 1.2])
    matrix[:3, 3] = (120, -80, 33)
    return matrix


@pytest.mark.parametrize(
    ("name", "target"),
    [("t.tfm", "itk"), ("t.txt", "itk"), ("t.h5", "itk"), ("t.mat", "ants"), ("t.mat", "greedy"), ("t.lta", "itk")],
)
def test_a_linear_transform_survives_a_file(name, target, tmp_path):
    s = setting(ODD)
    write_transform(Chain((Matrix(some_matrix()),)), tmp_path / name, target, sides=Sides(s.fixed, s.moving))
    np.testing.assert_allclose(read_transform(tmp_path / name).matrix, some_matrix(), atol=1e-9)


def test_a_matrix_of_fsl_survives_a_file_with_its_images(tmp_path):
    s = setting(ODD)
    write_transform(Chain((Matrix(some_matrix()),)), tmp_path / "t.mat", "fsl", sides=Sides(s.fixed, s.moving))
    back = read_transform(tmp_path / "t.mat", "fsl", s.fixed, s.moving)
    np.testing.assert_allclose(back.matrix, some_matrix(), atol=1e-8)
    with pytest.raises(InputError, match="both images"):
        read_transform(tmp_path / "t.mat", "fsl", s.fixed)


@sound
def test_a_matrix_in_a_mat_file_says_what_it_was_taken_for(tmp_path):
    s = setting(ODD)
    for name, target in (("t.mat", "greedy"), ("u.mat", "ants"), ("t.txt", "greedy")):
        write_transform(Chain((Matrix(some_matrix()),)), tmp_path / name, target, sides=Sides(s.fixed, s.moving))
    told = []
    read_chain([str(tmp_path / name) for name in ("t.mat", "u.mat", "t.txt")], told=told)
    assert len(told) == 1
    assert "The matrix in t.mat was taken as RAS mm from fixed to moving" in told[0]
    told.clear()
    read_chain([f"{tmp_path / 't.mat'}:fsl"], fixed=s.fixed, moving=s.moving, told=told)
    assert not told


@pytest.mark.parametrize("kind", ["affine", "composite"])
def test_a_text_transform_that_ends_early_is_refused(kind, tmp_path):
    affine, turn = sitk.AffineTransform(3), sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6))
    affine.SetCenter((10, 20, 30))
    whole = affine if kind == "affine" else sitk.CompositeTransform([turn, affine])
    path = tmp_path / "t.tfm"
    sitk.WriteTransform(whole, str(path))
    assert read_transform(path).matrix is not None
    lines = path.read_text().splitlines(keepends=True)
    for text in (
        "".join(lines[:-1]),
        "".join(lines[:-1]) + "FixedParameters: 10 20",
        "".join(lines[:-2]) + "Parameters: 1 0 0",
    ):
        path.write_text(text)
        with pytest.raises(InputError, match="ends early|damaged"):
            read_transform(path)


@pytest.mark.parametrize("part", [0.5, 0.8, 0.95])
def test_other_transforms_that_end_early_are_refused(part, tmp_path):
    s = setting(ODD)
    write_transform(Chain((Matrix(some_matrix()),)), tmp_path / "t.mat", "ants", sides=Sides(s.fixed, s.moving))
    np.savez_compressed(tmp_path / "t.npz", vol=np.zeros((*s.fixed.size, 3), np.float32))
    for name in ("t.mat", "t.npz"):
        path = tmp_path / name
        assert read_transform(path, fixed=s.fixed).parts or name == "t.npz"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        with pytest.raises(InputError, match=r"ends early|cannot be read from"):
            read_transform(path, fixed=s.fixed)


def test_a_transform_of_minc_is_refused_by_name(tmp_path):
    rows = "1 0 0 10\n0 1 0 20\n0 0 1 30;\n"
    (tmp_path / "t.xfm").write_text(f"MNI Transform File\n\nTransform_Type = Linear;\nLinear_Transform =\n{rows}")
    with pytest.raises(InputError, match=r"t\.xfm is a transform of MINC or FreeSurfer"):
        read_transform(tmp_path / "t.xfm")


def test_an_lta_in_voxels_reads_as_the_one_in_millimetres(tmp_path):
    s = setting(ODD)
    write_transform(Chain((Matrix(s.matrix),)), tmp_path / "ras.lta", sides=Sides(s.fixed, s.moving))
    voxels = s.fixed.ras_to_ijk @ np.linalg.inv(s.matrix) @ s.moving.ijk_to_ras
    lines = (tmp_path / "ras.lta").read_text().splitlines()
    lines[0] = "type      = 0 # LINEAR_VOX_TO_VOX"
    lines[5:9] = [" ".join(map(repr, row)) for row in voxels.tolist()]
    (tmp_path / "vox.lta").write_text("\n".join(lines))
    np.testing.assert_allclose(read_transform(tmp_path / "vox.lta").matrix, s.matrix, atol=1e-6)


def test_a_word_that_does_not_fit_its_file_is_refused_and_never_ignored(tmp_path):
    s = setting(ODD)
    write_transform(Chain((Bent(s.field),)), tmp_path / "u.nii.gz")
    write_transform(Chain((Matrix(s.matrix),)), tmp_path / "a.tfm")
    write_transform(Chain((Matrix(s.matrix),)), tmp_path / "a.txt")
    for name in ("u.nii.gz:fsl", "a.tfm:fsl", "a.txt:fsl", "a.tfm:voxelmorph"):
        with pytest.raises(InputError, match="cannot be taken as a"):
            read_chain([str(tmp_path / name)], "auto", s.fixed, s.moving)
    # What is said for all holds where it fits.
    names = [str(tmp_path / "u.nii.gz"), str(tmp_path / "a.tfm")]
    expected = read_chain(names).transform_points(s.between).points
    assert apart(read_chain(names, "fsl", s.fixed, s.moving).transform_points(s.between).points, expected) == 0


def test_a_field_of_fnirt_is_named_in_whatever_way_it_is_given(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(np.zeros((5, 6, 7, 3), np.float32), np.eye(4))
    image.header["intent_code"] = 2006
    nibabel.save(image, tmp_path / "warp.nii.gz")
    for convention in ("auto", "voxelmorph"):
        with pytest.raises(InputError, match="a field of FSL"):
            read_transform(tmp_path / "warp.nii.gz", convention)


def test_words_behind_a_name():
    assert Named.of("a/b.h5:inverse") == Named(Named.of("a/b.h5").path, True)
    assert Named.of("w.nii.gz:voxelmorph:inverse").convention == "voxelmorph"
    assert Named.of("C:/x.nii.gz", "voxelmorph") == Named(Named.of("C:/x.nii.gz").path, False, "voxelmorph")
    with pytest.raises(InputError, match="is no transform"):
        Named.of("x.mat:fsl:voxelmorph")


@sound
def test_the_first_transform_is_applied_first_and_an_inverse_undoes_it(tmp_path):
    s = setting(ODD)
    write_transform(Chain((Bent(s.field),)), tmp_path / "u.h5")
    write_transform(Chain((Matrix(s.matrix),)), tmp_path / "a.tfm")
    names = [str(tmp_path / "u.h5"), str(tmp_path / "a.tfm")]
    expected = s.field.transform_points(s.between) @ s.matrix[:3, :3].T + s.matrix[:3, 3]
    assert apart(read_chain(names).transform_points(s.between).points, expected) < 1e-4
    back = read_chain([f"{names[1]}:inverse", f"{names[0]}:inverse"]).transform_points(expected)
    assert apart(back.points, s.between) < 1e-3 and back.missed.max() < 1e-3


@sound
@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
def test_a_composite_keeps_its_parts_and_matrices_side_by_side_become_one(suffix, tmp_path):
    s = setting("oblique")
    chain = Chain.of([Matrix(s.matrix), Bent(s.field), Matrix(s.matrix), Matrix(some_matrix())])
    assert len(chain.parts) == 3
    write_transform(chain, tmp_path / f"c{suffix}", composite=True)
    back = read_transform(tmp_path / f"c{suffix}")
    assert [type(part) for part in back.parts] == [Matrix, Bent, Matrix]
    inside = s.between @ np.linalg.inv(s.matrix)[:3, :3].T + np.linalg.inv(s.matrix)[:3, 3]
    whole = sitk.ReadTransform(str(tmp_path / f"c{suffix}"))
    assert apart(back.transform_points(inside).points, by_sitk(whole, inside)) < 1e-3


def test_the_voxels_of_a_chain_lie_where_its_points_go():
    s = setting(ODD)
    chain = Chain.of([Matrix(s.matrix), Bent(s.field), Matrix(some_matrix()), Bent(s.field, backward=True)])
    for reference in (s.fixed, s.moving):
        field = chain.field_on(reference)
        points = reference.positions().reshape(-1, 3)
        expected = chain.transform_points(points).points
        assert np.abs(points + field.displacement_ras.reshape(-1, 3) - expected).max() < 2e-3


def test_outside_the_field_its_border_holds_forward_and_backward():
    s = setting(ODD)
    outside = s.fixed.to_ras([[-40.0, 3.0, 4.0]])
    border = s.fixed.to_ras([[0.0, 3.0, 4.0]])
    step = s.field.at(border)
    chain = Chain((Bent(s.field),))
    np.testing.assert_allclose(chain.transform_points(outside).points - outside, step, atol=1e-5)
    np.testing.assert_allclose(chain.inverse().transform_points(outside + step).points, outside, atol=1e-3)


@sound
def test_a_slice_is_carried_within_its_plane(tmp_path):
    rng = np.random.default_rng(0)
    vectors = sitk.GetImageFromArray(rng.normal(size=(9, 8, 2)), isVector=True)
    vectors.SetSpacing((1.5, 2.0))
    transform = sitk.DisplacementFieldTransform(sitk.Image(vectors))
    sitk.WriteTransform(transform, str(tmp_path / "flat.h5"))
    points = rng.uniform(1, 9, (20, 2))
    expected = np.array([transform.TransformPoint(p.tolist()) for p in points])
    moved = read_transform(tmp_path / "flat.h5").transform_points(np.pad(points * [-1, -1], [(0, 0), (0, 1)]))
    np.testing.assert_allclose(moved.points[:, :2] * [-1, -1], expected, atol=1e-5)


@sound
def test_files_of_ants_in_two_dimensions(tmp_path):
    import ants
    import pandas

    rng = np.random.default_rng(0)
    vectors = sitk.GetImageFromArray(rng.normal(size=(20, 18, 2)).astype(np.float32), isVector=True)
    vectors.SetSpacing((1.5, 2.0))
    vectors.SetOrigin((3.0, -4.0))
    vectors.SetDirection((0.8, -0.6, 0.6, 0.8))
    sitk.WriteImage(vectors, str(tmp_path / "1Warp.nii.gz"))
    affine = ants.create_ants_transform(dimension=2, matrix=np.array([[1.1, 0.1], [-0.05, 0.9]]), translation=(1, 2))
    ants.write_transform(affine, str(tmp_path / "0GenericAffine.mat"))
    names = [str(tmp_path / name) for name in ("1Warp.nii.gz", "0GenericAffine.mat")]
    places = rng.uniform(1, 15, (10, 2)).tolist()
    points = np.array([vectors.TransformContinuousIndexToPhysicalPoint(place) for place in places])
    moved = ants.apply_transforms_to_points(2, pandas.DataFrame(points, columns=["x", "y"]), names)
    found = read_chain(names).transform_points(np.pad(points * [-1, -1], [(0, 0), (0, 1)])).points
    np.testing.assert_allclose(found[:, :2] * [-1, -1], moved[["x", "y"]].to_numpy(), atol=1e-4)
    assert np.abs(found[:, 2]).max() == 0


def test_files_that_hold_no_transform_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_transform(tmp_path / "missing.tfm")
    for name in ("bad.tfm", "bad.h5", "bad.lta", "bad.nii.gz", "bad.npz"):
        (tmp_path / name).write_text("not a transform")
        with pytest.raises(InputError, match="cannot be read"):
            read_transform(tmp_path / name)
    np.savetxt(tmp_path / "flat.txt", np.diag([1, 1, 0, 1]))
    with pytest.raises(InputError, match="singular"):
        read_transform(tmp_path / "flat.txt")
    sitk.WriteImage(sitk.Image([5, 6, 7, 3], sitk.sitkFloat32), str(tmp_path / "flow.nii.gz"))
    with pytest.raises(InputError, match="--convention voxelmorph"):
        read_transform(tmp_path / "flow.nii.gz")
    sitk.WriteImage(sitk.Image([5, 6, 7, 4], sitk.sitkFloat32), str(tmp_path / "four.nii.gz"))
    with pytest.raises(InputError, match="no field in voxels"):
        read_transform(tmp_path / "four.nii.gz", "voxelmorph")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ThinPlateSplineKernelTransform_double_3_3", "thin plate"),
        ("GaussianExponentialVelocityFieldTransform_double_3_3", "a velocity field"),
    ],
)
def test_what_simpleitk_cannot_read_is_named(kind, message, tmp_path):
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "t.h5"))
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        del file["TransformGroup/0/TransformType"]
        file["TransformGroup/0/TransformType"] = np.array([kind.encode()], dtype=f"S{len(kind) + 1}")
    with pytest.raises(InputError, match=message):
        read_transform(tmp_path / "t.h5")


def test_a_parameter_file_of_elastix_is_told_apart(tmp_path):
    (tmp_path / "TransformParameters.0.txt").write_text('(Transform "BSplineTransform")\n')
    with pytest.raises(InputError, match="transformix -def all"):
        read_transform(tmp_path / "TransformParameters.0.txt")


def test_formats_that_cannot_hold_it_say_so_and_leave_nothing(tmp_path):
    s = setting("oblique")
    bent, matrix = Chain((Bent(s.field),)), Chain((Matrix(s.matrix),))
    for chain, name, options, message in (
        (bent, "a.lta", {}, "only linear ones"),
        (matrix, "a.lta", {}, "names both images"),
        (matrix, "a.xyz", {}, "is no name for a linear transform"),
        (bent, "a.xyz", {}, "is no name for a displacement field"),
        (bent.inverse(), "a.h5", {"composite": True}, "cannot hold an inverse"),
        (matrix, "a.tfm", {"target": "spm"}, "no target 'spm'"),
        (Chain(), "a.nii.gz", {}, "on which grid"),
    ):
        with pytest.raises(InputError, match=message):
            write_transform(chain, tmp_path / "new" / name, **options)
    assert list(tmp_path.iterdir()) == []


@sound
def test_a_file_is_replaced_only_when_that_is_wanted(tmp_path):
    s = setting("oblique")
    (tmp_path / "t.h5").write_text("kept")
    with pytest.raises(OutputError, match="--overwrite"):
        write_transform(chain_of(s), tmp_path / "t.h5")
    assert (tmp_path / "t.h5").read_text() == "kept"
    write_transform(chain_of(s), tmp_path / "t.h5", overwrite=True)
    assert read_transform(tmp_path / "t.h5").bent and [p.name for p in tmp_path.iterdir()] == ["t.h5"]


def test_a_disk_that_fills_while_writing_is_told(tmp_path, monkeypatch):
    s = setting("oblique")
    monkeypatch.setattr(
        "VoxelMorphRegistrationLib.transforms.writing.write_field",
        lambda field, path: sitk.WriteImage(lps_image(DisplacementField.identity(field.grid)), str(path)),
    )
    with pytest.raises(OutputError, match="reads back changed"):
        write_transform(Chain((Bent(s.field),)), tmp_path / "u.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_a_field_of_one_voxel_is_a_shift_and_has_its_inverse():
    chain = Chain((Bent(DisplacementField(np.full((1, 1, 1, 3), (5.0, -3.0, 2.0)), make_grid((1, 1, 1)))),))
    back = chain.inverse().field_on(make_grid((4, 3, 2)))
    np.testing.assert_allclose(back.displacement_ras.reshape(-1, 3), np.tile([-5.0, 3.0, -2.0], (24, 1)), atol=1e-3)


def test_a_field_that_folds_has_no_inverse_on_a_grid():
    grid = make_grid((20, 20, 20))
    u = np.zeros((*grid.shape, 3), np.float32)
    u[..., 0] = -8 * np.sin(grid.positions()[..., 0] / 2)
    from VoxelMorphRegistrationLib.errors import FieldError

    with pytest.raises(FieldError, match="cannot be inverted"):
        Chain((Bent(DisplacementField(u, grid), backward=True),)).field_on(grid)


def test_a_slice_written_as_a_transform_is_read_back_alike(tmp_path):
    grid = make_grid((20, 18, 1), (1, 1.2, 2), (10, 20, 30))
    field = DisplacementField(smooth_displacement(grid.positions()).astype(np.float32), grid)
    write_transform(Chain((Bent(field),)), tmp_path / "u.nii.gz")
    points = grid.to_ras([[4, 5, 0], [11, 9, 0]])
    np.testing.assert_allclose(
        read_transform(tmp_path / "u.nii.gz").transform_points(points).points, field.transform_points(points), atol=1e-4
    )


@sound
@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
def test_a_slice_in_a_chain_of_parts_is_read_back_alike(suffix, tmp_path):
    grid = make_grid((20, 18, 1), (1, 1.2, 2), (10, 20, 30))
    field = DisplacementField(smooth_displacement(grid.positions()).astype(np.float32), grid)
    chain = Chain((Bent(field), Matrix(some_matrix())))
    write_transform(chain, tmp_path / f"c{suffix}", composite=True)
    points = grid.to_ras([[4, 5, 0], [11, 9, 0], [0, 0, 0]])
    expected = chain.transform_points(points).points
    np.testing.assert_allclose(
        read_transform(tmp_path / f"c{suffix}").transform_points(points).points, expected, atol=1e-4
    )
    itk = sitk.ReadTransform(str(tmp_path / f"c{suffix}"))
    lps = np.array([itk.TransformPoint((p * [-1, -1, 1]).tolist()) for p in points])
    np.testing.assert_allclose(lps * [-1, -1, 1], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["t.txt", "t.lta"])
def test_a_text_of_windows_with_a_mark_at_its_beginning_is_read(name, tmp_path):
    s = setting(ODD)
    write_transform(
        Chain((Matrix(some_matrix()),)),
        tmp_path / name,
        "greedy" if name == "t.txt" else "itk",
        sides=Sides(s.fixed, s.moving),
    )
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    np.testing.assert_allclose(read_transform(tmp_path / name).matrix, some_matrix(), atol=1e-9)
