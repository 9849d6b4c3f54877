"""Draws docs/images/dose.png: a planned dose with its structures, and both carried onto the image of another day.

    python Testing/Pictures/make_dose_picture.py --ct ct.nii.gz --organs organs.nii.gz --output docs/images/dose.png

What docs/console.md tells to do, with a dose that is made up: 50 Gy in one organ, which fall off around it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
PARTS = ("VoxelMorphRegistration", "Testing/Harness", "Testing/Python", "Testing/Benchmarks")
sys.path[:0] = [str(ROOT / part) for part in PARTS]

import abdomen  # noqa: E402
import numpy as np  # noqa: E402
import sheets  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import vtk  # noqa: E402
from slice_views import SliceViews  # noqa: E402

import slicer  # noqa: E402
import slicer_application  # noqa: E402
from VoxelMorphRegistrationLib.images.image import Image, resample  # noqa: E402
from VoxelMorphRegistrationLib.mrml.carrying import carry_segmentation, carry_volume  # noqa: E402
from VoxelMorphRegistrationLib.mrml.check_views import hide_outlines, jump_to, show_outlines, show_pair  # noqa: E402
from VoxelMorphRegistrationLib.registration.settings import Settings  # noqa: E402

VIEW, CORONAL, QUALITY = (440, 400), "Green", "preview"
# Of the dose: the organ that gets it, how it falls off, its voxels, and how it is drawn.
TARGET, GRAY, FALLS_MM, SPACING_MM, LEAST, OPACITY = 6, 50.0, 25.0, 3.0, 0.1, 0.45


def planned_dose(organs: Image) -> Image:
    """Gray on a grid of its own: all of it in the target, less with the distance from there."""
    target = sitk.GetImageFromArray((organs.array == TARGET).astype(np.uint8))
    target.SetSpacing([float(one) for one in organs.grid.spacing])
    distance = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(target, False, False, True))
    dose = (GRAY * np.exp(-((np.maximum(distance, 0.0) / FALLS_MM) ** 2))).astype(np.float32)
    coarse = organs.grid.ijk_to_ras.copy()
    factor = np.maximum(SPACING_MM / organs.grid.spacing, 1.0)
    coarse[:3, :3] *= factor
    shape = tuple(int(n) for n in np.ceil(np.array(organs.grid.shape) / factor[::-1]))
    return resample(Image(dose, organs.grid, "dose"), type(organs.grid)(shape, coarse))


def show_dose(node) -> None:
    """In colours from cold to hot; clear where there is little."""
    node.CreateDefaultDisplayNodes()
    shown = node.GetDisplayNode()
    shown.SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")
    shown.AutoWindowLevelOff()
    shown.SetWindowLevelMinMax(0.0, GRAY)
    shown.AutoThresholdOff()
    shown.SetThreshold(LEAST * GRAY, 1e9)
    shown.ApplyThresholdOn()


def drawn(views: SliceViews, volume, dose, structures) -> np.ndarray:
    """A coronal slice through the middle of the dose, with the structures as outlines."""
    show_dose(dose)
    show_pair(volume, dose, OPACITY)
    hide_outlines(slicer.mrmlScene)
    show_outlines({"fixed": structures}, width=2)
    views.fit()
    array = slicer.util.arrayFromVolume(dose)
    inside = np.argwhere(array > 0.9 * array.max()).mean(0)[::-1]
    matrix = vtk.vtkMatrix4x4()
    dose.GetIJKToRASMatrix(matrix)
    jump_to(slicer.mrmlScene, matrix.MultiplyPoint([*inside, 1.0])[:3])
    slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCrosshairMode(0)
    return views.draw(CORONAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", type=Path, required=True, help="CT of an abdomen")
    parser.add_argument("--organs", type=Path, required=True, help="its organs, numbered as TotalSegmentator does")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer_application.start()
    views = SliceViews(slicer.mrmlScene, VIEW)
    slicer.app.layoutManager().resetSliceViews = views.fit
    import VoxelMorphRegistration as module

    pair = abdomen.make_pair(options.ct, options.organs)
    nodes = abdomen.add_pair(slicer.mrmlScene, pair)
    dose_image = planned_dose(pair.labels["organs"][1])
    dose = slicer.util.addVolumeFromArray(dose_image.array, ijkToRAS=dose_image.grid.ijk_to_ras, name="Dose")
    logic = module.VoxelMorphRegistrationLogic()
    settings = Settings(quality=QUALITY, alignment="rigid")
    result = logic.register(nodes.fixed, nodes.moving, settings=settings, outputJacobian=False)
    carried = carry_volume(result.transform, dose, name="Dose today")
    structures = carry_segmentation(result.transform, nodes.moving_organs, name="Structures today")
    columns = {
        "Plan": drawn(views, nodes.moving, dose, nodes.moving_organs),
        "Plan, on today's image": drawn(views, nodes.fixed, dose, nodes.moving_organs),
        "Carried": drawn(views, nodes.fixed, carried, structures),
    }
    sheets.save(sheets.tiles(columns, 3), options.output)
    logic.worker().shutdown()


if __name__ == "__main__":
    main()
