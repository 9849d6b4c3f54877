"""What is refused is told by a sentence that names the input."""

import numpy as np
import pytest

from grids import make_grid
from registration_cases import ball, ball_labels, pair, settings
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.errors import InputError, ModelError, VoxelMorphError
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings


def test_unusable_images_are_told_apart(model):
    fixed, moving = pair()
    for array, message in (
        (np.zeros(fixed.grid.shape), "The fixed image .fixed.nii. is empty: all its voxels have the value 0"),
        (np.full(fixed.grid.shape, np.nan), "has no usable values"),
        (np.zeros(fixed.grid.shape, complex), "holds complex128 values"),
    ):
        with pytest.raises(InputError, match=message):
            register(fixed.with_array(array), moving, settings=settings(model))


def test_same_image_twice_is_refused(model):
    fixed, _ = pair()
    with pytest.raises(InputError, match="are the same"):
        register(fixed, fixed, settings=settings(model))


def test_what_is_no_image_and_settings_in_the_wrong_place_are_told():
    fixed, moving = pair()
    for images, more, message in (
        (
            ("fixed.nii", moving),
            {},
            "The fixed image is given as str, and an Image is needed. Read files with read_image",
        ),
        ((fixed, [moving.array]), {}, "The moving image is given as ndarray"),
        ((fixed, None), {}, "The moving image is given as NoneType"),
        ((fixed, moving), {"moving_labels": "labels.nii"}, "The label map or mask is given as str"),
        ((fixed, moving, Settings()), {}, "Name them: settings="),
        ((fixed, moving), dict.fromkeys(("fixed_points", "moving_points"), np.zeros((3, 2))), "three numbers a point"),
    ):
        with pytest.raises(VoxelMorphError, match=message):
            register(*images, **more)


def test_slice_and_volume_are_refused(model):
    with pytest.raises(InputError, match="fixed image is 3D and the moving image 2D"):
        register(pair()[0], ball(make_grid((40, 40, 1))), settings=settings(model))


def test_images_too_thin_are_refused(model):
    with pytest.raises(InputError, match="at least 4 are needed"):
        register(pair()[0], ball(make_grid((40, 40, 2))), settings=settings(model))


def test_images_without_overlap_are_refused(model):
    fixed, moving = pair()
    far = Image(
        moving.array, moving.grid.transformed(np.array([[1, 0, 0, 500.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    )
    with pytest.raises(InputError, match="do not overlap"):
        register(fixed, far, settings=settings(model))


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_voxel_sizes_of_another_unit_are_named_and_not_called_an_empty_image(model, factor):
    fixed, moving = pair()
    scale = np.diag([factor, factor, factor, 1.0])
    other = Image(moving.array, moving.grid.transformed(scale), "moving.nii")
    with pytest.raises(InputError, match="moving.nii. .* mm: the voxel size of one has the wrong unit"):
        register(fixed, other, settings=settings(model))
    # Where somebody says how the one lies in the other, it is right.
    register(fixed, other, settings=settings(model, alignment="none"), initial_transform=scale)


def test_labels_on_another_grid_are_refused(model):
    fixed, moving = pair()
    other = ball_labels(ball(make_grid((10, 10, 10), (1.5, 1.5, 1.5))))
    with pytest.raises(
        InputError, match="The voxels of the moving labels .labels. are on another grid than the moving image"
    ):
        register(fixed, moving, settings=settings(model), moving_labels=other)
    with pytest.raises(InputError, match="fixed mask"):
        register(fixed, moving, settings=settings(model), fixed_mask=other)


def test_labels_that_are_no_labels_are_refused(model):
    fixed, moving = pair()
    with pytest.raises(InputError, match="not whole numbers"):
        register(fixed, moving, settings=settings(model), moving_labels=moving.with_array(moving.array / 3))


def test_half_given_measures_are_refused(model):
    fixed, moving = pair()
    with pytest.raises(InputError, match="without moving labels"):
        register(fixed, moving, settings=settings(model), fixed_labels=ball_labels(fixed))
    with pytest.raises(InputError, match="Landmarks were given for one image only"):
        register(fixed, moving, settings=settings(model), fixed_points=np.zeros((2, 3)))
    with pytest.raises(InputError, match="2 fixed and 3 moving landmarks"):
        register(fixed, moving, settings=settings(model), fixed_points=np.zeros((2, 3)), moving_points=np.zeros((3, 3)))


def test_empty_mask_is_refused(model):
    fixed, moving = pair()
    with pytest.raises(InputError, match="fixed mask is empty"):
        register(
            fixed, moving, settings=settings(model), fixed_mask=fixed.with_array(np.zeros(fixed.grid.shape, np.uint8))
        )


def test_singular_initial_transform_is_refused(model):
    with pytest.raises(InputError, match="singular"):
        register(*pair(), settings=settings(model), initial_transform=np.diag([1.0, 0, 1, 1]))


def test_model_of_the_wrong_dimension_is_refused(tmp_path):
    path = save_centroid_model(tmp_path / "m.pt", dimension=2)
    with pytest.raises(InputError, match="images are 3D, but the model 'centroid' is for 2D images"):
        register(*pair(), settings=settings(path))


def test_slices_without_a_2d_model_get_a_plain_answer(monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.registration.choice.model_names", lambda: ["general-3d"])
    fixed, moving = ball(make_grid((40, 40, 1))), ball(make_grid((40, 40, 1)), (3, 0, 0))
    with pytest.raises(InputError, match="no 2D model is shipped"):
        register(fixed, moving, settings=Settings(alignment="none", refinement="off"))


def test_missing_model_is_named():
    with pytest.raises(ModelError, match="no model file or shipped model 'nothing'"):
        register(*pair(), settings=Settings(model="nothing"))
