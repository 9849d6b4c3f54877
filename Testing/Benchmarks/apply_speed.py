"""A series of 20 frames, 20 label files and 10,000 points through one warp and affine: this library beside antspyx.

Made-up files of usual sizes, reading and writing included, one after the other in one process. CPU seconds (user and
system) and wall seconds; ratios within a run are what they are good for.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "VoxelMorphRegistration"), str(ROOT / "Testing/Python")]

# As the command line: threads that wait are not to burn time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ants  # noqa: E402
import pandas  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import torch  # noqa: E402

from grids import make_grid, rotation, smooth_displacement, smooth_function  # noqa: E402
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField  # noqa: E402
from VoxelMorphRegistrationLib.images.files import set_sitk_geometry  # noqa: E402
from VoxelMorphRegistrationLib.transforms.apply import Wishes, apply_to_file  # noqa: E402
from VoxelMorphRegistrationLib.transforms.chain import Chain  # noqa: E402
from VoxelMorphRegistrationLib.transforms.frames import read_grid  # noqa: E402
from VoxelMorphRegistrationLib.transforms.parts import Bent, Matrix  # noqa: E402
from VoxelMorphRegistrationLib.transforms.reading import read_chain  # noqa: E402
from VoxelMorphRegistrationLib.transforms.writing import write_transform  # noqa: E402

FRAMES, LABEL_FILES, POINTS = 20, 20, 10_000


def write(values: np.ndarray, grid, path: Path) -> None:
    image = sitk.GetImageFromArray(values)
    set_sitk_geometry(image, grid)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def make_files(folder: Path, side: int) -> None:
    fixed = make_grid((side, round(1.2 * side), side), degrees=(4, -3, 6))
    moving = make_grid((round(1.1 * side), round(1.2 * side), side), degrees=(-5, 8, 2), left_handed=True)
    coarse = make_grid((round(side / 3), round(side / 2.6), round(side / 3)), (3, 3, 3), center=(2, 3, 4))
    field_grid = make_grid((side // 2, round(0.6 * side), side // 2), (2, 2, 2), degrees=(4, -3, 6))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((3, 2, -4)) * 1.03
    field = DisplacementField(smooth_displacement(field_grid.positions()).astype(np.float32), field_grid)
    write_transform(Chain((Bent(field),)), folder / "1Warp.nii.gz", "ants")
    write_transform(Chain((Matrix(matrix),)), folder / "0GenericAffine.mat", "ants")
    pattern = smooth_function(moving.positions())
    write(np.zeros(fixed.shape, np.uint8), fixed, folder / "fixed.nii.gz")
    write(np.zeros(coarse.shape, np.uint8), coarse, folder / "coarse.nii.gz")
    for number in range(LABEL_FILES):
        labels = np.digitize(pattern, np.linspace(200, 800, 8 + number)).astype(np.uint8)
        write(labels, moving, folder / f"labels{number}.nii.gz")
    frames = []
    for number in range(FRAMES):
        frame = sitk.GetImageFromArray((smooth_function(coarse.positions() + number / 5)).astype(np.int16))
        set_sitk_geometry(frame, coarse)
        frames.append(frame)
    sitk.WriteImage(sitk.JoinSeries(frames), str(folder / "series.nii.gz"))
    rng = np.random.default_rng(0)
    points = fixed.to_ras(rng.uniform(10, fixed.size - 11, (POINTS, 3)))
    np.savetxt(folder / "points.csv", points, delimiter=",", header="x,y,z", comments="")


class Clock:
    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float, float]] = []

    def __call__(self, program: str, what: str, function) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        function()
        self.rows.append((program, what, time.process_time() - cpu, time.perf_counter() - wall))


def ours(folder: Path, clock: Clock) -> None:
    names = [str(folder / "1Warp.nii.gz"), str(folder / "0GenericAffine.mat")]

    def carry(chain, name: str, wishes: Wishes) -> None:
        apply_to_file(chain, folder / name, folder / f"ours_{name}", folder / f"ours_{name}", wishes)

    def series() -> None:
        carry(read_chain(names), "series.nii.gz", Wishes(read_grid(folder / "coarse.nii.gz", "reference")))

    def labels() -> None:
        chain, reference = read_chain(names), read_grid(folder / "fixed.nii.gz", "reference")
        for number in range(LABEL_FILES):
            carry(chain, f"labels{number}.nii.gz", Wishes(reference, interpolation="nearest"))

    def points() -> None:
        back = [f"{name}:inverse" for name in reversed(names)]
        # Points go by the inverse of what images go by: here forward, as antsApplyTransformsToPoints does.
        carry(read_chain(back), "points.csv", Wishes())

    def points_back() -> None:
        carry(read_chain(names), "points.csv", Wishes())

    clock("VoxelMorph", f"series of {FRAMES} frames", series)
    clock("VoxelMorph", f"{LABEL_FILES} label files, nearest", labels)
    clock("VoxelMorph", f"{POINTS} points", points)
    clock("VoxelMorph", f"{POINTS} points by the computed inverse", points_back)


def theirs(folder: Path, clock: Clock) -> None:
    names = [str(folder / "1Warp.nii.gz"), str(folder / "0GenericAffine.mat")]

    def series() -> None:
        fixed, moving = (ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("coarse", "series"))
        ants.image_write(ants.apply_transforms(fixed, moving, names, imagetype=3), str(folder / "ants_series.nii.gz"))

    def labels() -> None:
        fixed = ants.image_read(str(folder / "fixed.nii.gz"))
        for number in range(LABEL_FILES):
            moving = ants.image_read(str(folder / f"labels{number}.nii.gz"))
            moved = ants.apply_transforms(fixed, moving, names, interpolator="nearestNeighbor")
            ants.image_write(moved.clone("unsigned char"), str(folder / f"ants_labels{number}.nii.gz"))

    def points() -> None:
        table = pandas.read_csv(folder / "points.csv") * [-1, -1, 1]
        ants.apply_transforms_to_points(3, table, names).to_csv(folder / "ants_points.csv", index=False)

    clock("antspyx", f"series of {FRAMES} frames", series)
    clock("antspyx", f"{LABEL_FILES} label files, nearest", labels)
    clock("antspyx", f"{POINTS} points", points)


def agreement(folder: Path) -> str:
    labels = [
        np.mean(
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"ours_labels{n}.nii.gz")))
            == sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"ants_labels{n}.nii.gz")))
        )
        for n in range(LABEL_FILES)
    ]
    mine = np.loadtxt(folder / "ours_points.csv", delimiter=",", skiprows=1)
    own = pandas.read_csv(folder / "points.csv").to_numpy()
    back = np.linalg.norm(mine - own, axis=1).max()
    return f"labels equal in {100 * min(labels):.3f} % of the voxels or more; points moved by up to {back:.1f} mm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=160, help="voxels along the sides of the label maps")
    args = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, args.side)
        clock = Clock()
        # The first call of each pays for what it loads.
        ours(folder, Clock())
        theirs(folder, Clock())
        ours(folder, clock)
        theirs(folder, clock)
        print(agreement(folder))
    print("| program | what | CPU s | wall s |\n|---|---|---|---|")
    for program, what, cpu, wall in clock.rows:
        print(f"| {program} | {what} | {cpu:.2f} | {wall:.2f} |")


if __name__ == "__main__":
    main()
