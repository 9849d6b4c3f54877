"""Folders with a DICOM series."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError


def read_dicom_folder(path: Path, label: str):
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(path))
    if not series:
        raise InputError(f"The {label} cannot be read: the folder {path} holds no DICOM series.")
    if len(series) > 1:
        raise InputError(
            f"The {label} is not one image: the folder {path} holds {len(series)} DICOM series. "
            "Give a folder with a single series."
        )
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path), series[0]))
    return reader.Execute()
