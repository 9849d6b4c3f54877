"""Folders with several DICOM series, and which one `voxelmorph apply` and `voxelmorph transform` take."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_cases import SIZE, edited, stack
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.images.files import read_image


@pytest.fixture
def study(tmp_path):
    """A folder with two series, the second one shorter and brighter, and files of transforms."""
    folder = stack(tmp_path / "d", name="a{}.dcm", series="1.2.8", SeriesNumber=1)
    for path in stack(folder, count=5, name="b{}.dcm", series="1.2.9", SeriesNumber=2).glob("b*"):
        edited(path, RescaleSlope=1, RescaleIntercept=1000)
    (tmp_path / "same.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    return folder


def test_apply_takes_the_series_of_reference_and_input(study, tmp_path, capsys):
    arguments = ["apply", str(tmp_path / "same.mat"), str(study), "--overwrite", "-o", str(tmp_path / "out.nii.gz")]
    assert main(arguments) == 1
    assert "holds 2 DICOM series. Choose one by its number in this list (--series" in capsys.readouterr().err
    assert main([*arguments, "--series", "1,2,3"]) == 1
    assert "--series takes one number, or two" in capsys.readouterr().err
    for series, shape, offset in (
        ("2", (5, *SIZE[1::-1]), 1000),
        ("2,1", (5, *SIZE[1::-1]), 0),
        ("1,1", SIZE[::-1], 0),
    ):
        assert main([*arguments, "--reference", str(study), "--series", series]) == 0
        found = read_image(tmp_path / "out.nii.gz").array
        expected = read_image(study, series=1).array[: shape[0]] + offset
        assert found.shape == shape
        np.testing.assert_allclose(found, expected, atol=1.01)
    plain = ["apply", str(tmp_path / "same.mat"), str(tmp_path / "out.nii.gz"), "-o", str(tmp_path / "again.nii.gz")]
    assert main([*plain, "--series", "1"]) == 1
    assert "no image is a folder with DICOM files" in capsys.readouterr().err


def test_transform_takes_the_series_of_its_images(study, tmp_path, capsys):
    arguments = ["transform", "jacobian", str(tmp_path / "same.mat"), "-o", str(tmp_path / "det.nii.gz")]
    assert main([*arguments, "--reference", str(study)]) == 1
    assert "holds 2 DICOM series" in capsys.readouterr().err
    assert main([*arguments, "--reference", str(study), "--series", "2"]) == 0
    assert read_image(tmp_path / "det.nii.gz").array.shape == (5, *SIZE[1::-1])
    fsl = ["transform", "convert", str(tmp_path / "same.mat"), "--to", "fsl", "--reference", str(study)]
    fsl += ["--moving", str(study), "--overwrite", "-o", str(tmp_path / "flirt.mat")]
    assert main([*fsl, "--series", "1,3"]) == 1
    assert "The moving image in" in capsys.readouterr().err
    assert main([*fsl, "--series", "1,2"]) == 0
    assert main([*arguments, "--overwrite", "--series", "1"]) == 1
    assert "no image is a folder with DICOM files" in capsys.readouterr().err


def test_folders_among_several_inputs_become_files(study, tmp_path):
    arguments = ["apply", str(tmp_path / "same.mat"), "--inputs", str(study), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--series", "2"]) == 0
    assert read_image(tmp_path / "out" / "d.nii.gz").array.shape == (5, *SIZE[1::-1])
