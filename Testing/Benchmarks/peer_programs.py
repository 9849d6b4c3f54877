"""Runs one method of the comparison, so that a process of its own can be measured.

`python peer_programs.py METHOD FIXED MOVING OUTPUT THREADS [HOW]`. OUTPUT of a registration is a .npy file with the
displacement in mm along the physical axes of the fixed image as ITK has them (LPS in 3D), (*S, d) from fixed to moving
positions; HOW "linear" has the method align the images first. METHOD align: this project's linear alignment alone, HOW
is its kind, and OUTPUT a text file with the matrix.
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np


def greedy(fixed: str, moving: str, threads: int, linear: bool) -> np.ndarray:
    """greedy with normalised cross-correlation of windows of radius 2, 100x50x10 iterations."""
    import picsl_greedy
    import SimpleITK as sitk

    images = [sitk.ReadImage(path, sitk.sitkFloat32) for path in (fixed, moving)]
    dimension = images[0].GetDimension()
    program = (picsl_greedy.Greedy3D if dimension == 3 else picsl_greedy.Greedy2D)()
    radius = "x".join(["2"] * dimension)
    program.execute(
        f"-d {dimension} -m NCC {radius} -i fixed moving -n 100x50x10 -threads {threads} -o field",
        fixed=images[0],
        moving=images[1],
        field=None,
    )
    return sitk.GetArrayFromImage(program["field"])


def syn_mi(fixed: str, moving: str, threads: int, linear: bool) -> np.ndarray:
    """ANTs SyN as antspyx has it by default: mutual information, 40x20x0 iterations."""
    return _syn(fixed, moving, "SyN" if linear else "SyNOnly")


def syn_cc(fixed: str, moving: str, threads: int, linear: bool) -> np.ndarray:
    """ANTs SyN by the settings of antsRegistrationSyN: cross-correlation, 100x70x50x20 iterations."""
    return _syn(fixed, moving, f"antsRegistrationSyN[{'s' if linear else 'so'}]")


def _syn(fixed: str, moving: str, method: str) -> np.ndarray:
    import ants

    images = [ants.image_read(path).clone("float") for path in (fixed, moving)]
    start = {"initial_transform": "Identity"} if "Only" in method or "[so]" in method else {}
    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(*images, type_of_transform=method, outprefix=f"{folder}/", random_seed=1, **start)
        composed = ants.apply_transforms(*images, transformlist=found["fwdtransforms"], compose=f"{folder}/all-")
        field = ants.image_read(composed).numpy()
    # ANTs' arrays are (I, J, K, d).
    return field.transpose(*reversed(range(field.ndim - 1)), field.ndim - 1)


def demons(fixed: str, moving: str, threads: int, linear: bool) -> np.ndarray:
    """SimpleITK's diffeomorphic demons in three levels, intensities matched by histogram."""
    import SimpleITK as sitk

    target, source = (sitk.ReadImage(path, sitk.sitkFloat32) for path in (fixed, moving))
    source = sitk.HistogramMatching(source, target, numberOfHistogramLevels=256, numberOfMatchPoints=16)
    field = None
    for shrink, iterations in ((4, 100), (2, 50), (1, 25)):
        level = _coarser(target, shrink)
        start = _zero_field(level)
        if field is not None:
            start = sitk.Resample(field, level, sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID(), True)
        program = sitk.DiffeomorphicDemonsRegistrationFilter()
        program.SetNumberOfIterations(iterations)
        program.SetSmoothDisplacementField(True)
        program.SetStandardDeviations(1.5)
        field = program.Execute(level, _coarser(source, shrink), start)
    return sitk.GetArrayFromImage(field)


def _coarser(image, factor: int):
    import SimpleITK as sitk

    if factor == 1:
        return image
    smooth = sitk.SmoothingRecursiveGaussian(image, [0.5 * factor * spacing for spacing in image.GetSpacing()])
    return sitk.Shrink(smooth, [min(factor, size) for size in image.GetSize()])


def _zero_field(image):
    import SimpleITK as sitk

    field = sitk.Image(image.GetSize(), sitk.sitkVectorFloat64, image.GetDimension())
    field.CopyInformation(image)
    return field


def align(fixed: str, moving: str, output: str, kind: str) -> None:
    """This project's linear alignment: a text file with the 4x4 matrix, fixed to moving in RAS mm."""
    from VoxelMorphRegistrationLib.alignment.align import align as alignment_align
    from VoxelMorphRegistrationLib.images.files import read_image

    found = alignment_align(read_image(fixed), read_image(moving), kind)
    np.savetxt(output, found.matrix)
    print(*found.warnings, sep="\n")


METHODS = {"greedy": greedy, "syn-mi": syn_mi, "syn-cc": syn_cc, "demons": demons}


def main(arguments: list[str]) -> None:
    method, fixed, moving, output, threads, *how = arguments
    if method == "align":
        align(fixed, moving, output, *how)
    else:
        np.save(output, METHODS[method](fixed, moving, int(threads), how == ["linear"]).astype(np.float32))


if __name__ == "__main__":
    main(sys.argv[1:])
