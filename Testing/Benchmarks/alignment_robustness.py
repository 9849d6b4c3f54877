"""How often the linear alignment finds its way back from random starts, beside SimpleITK's plain recipe.

The moving image is displaced by random rigid motions and aligned again. The answer from the good start, the images as
they lie, is the truth; where parts of images are aligned, that of the whole ones, and where it is known, the known one.
A start is recovered when the mean distance from it over points of the fixed foreground is
below `RECOVERED_MM`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from cases import POINTS, foreground, generator, read
from resources import BenchmarkError

from VoxelMorphRegistrationLib.alignment.align import align
from VoxelMorphRegistrationLib.errors import VoxelMorphError
from VoxelMorphRegistrationLib.images.files import to_sitk
from VoxelMorphRegistrationLib.images.grid import reoriented
from VoxelMorphRegistrationLib.images.image import Image, resample

RECOVERED_MM = 2.0
OURS, PEER = "ours", "SimpleITK"
CODES = ("RAS", "LPS", "LIA", "PIR", "ASL", "SPR")


@dataclass(frozen=True)
class Row:
    """One start of one method. angle, shift: of the displacement, degrees and mm. error_mm: mean distance from the
    answer of the good start (NaN when the method gave up). gave_up: the fault or warning it told of."""

    case: str
    method: str
    start: int
    angle: float
    shift: float
    error_mm: float
    cpu_s: float
    gave_up: str

    @property
    def recovered(self) -> bool:
        return self.error_mm < RECOVERED_MM


# --- the pairs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """fixed <- moving. whole: the pair whose good start gives the answer, where these two show only parts of it.
    answer: (4, 4), the answer where it is known otherwise, fixed to moving RAS mm."""

    fixed: Image
    moving: Image
    whole: tuple[Image, Image] | None = None
    answer: np.ndarray | None = None


def _head(data: Path) -> Task:
    """T1 and PD of one head; the PD has thick slices."""
    folder = data / "head_native"
    return Task(read(folder / "chris_t1.nii.gz", "T1"), read(folder / "chris_pd.nii.gz", "PD"))


def _half(data: Path) -> Task:
    """The upper half of the T1 <- the whole PD."""
    head = _head(data)
    return Task(_cut(head.fixed, 0.5, 1.0), head.moving, (head.fixed, head.moving))


def _shared_half(data: Path) -> Task:
    """The upper two thirds of the T1 <- the lower two thirds of the PD: about half of each is in both."""
    head = _head(data)
    parts = _cut(head.fixed, 1 / 3, 1.0), _cut(head.moving, 0.0, 2 / 3)
    return Task(*parts, (head.fixed, head.moving))


def _cut(image: Image, low: float, high: float) -> Image:
    """The slices from the part `low` to the part `high` of the last voxel axis."""
    first, end = (round(part * image.grid.size[2]) for part in (low, high))
    grid = image.grid.cropped((0, 0, first), (image.grid.size[0], image.grid.size[1], end - first))
    return Image(np.ascontiguousarray(image.array[first:end]), grid, image.name)


def _stripped(data: Path) -> Task:
    """A brain without its skull <- the whole head of somebody else."""
    brain = read(data / "multimodal" / "p26_t1.nii.gz", "brain")
    return Task(brain, read(data / "head_native" / "chris_t1.nii.gz", "head"))


def _brains(data: Path) -> Task:
    """Two people's brains on their own grids."""
    folder = data / "brain_native"
    return Task(read(folder / "1014_t1.nii.gz", "1014"), read(folder / "1018_t1.nii.gz", "1018"))


def _contrasts(data: Path) -> Task:
    """T1 and FLAIR of one person, already aligned."""
    folder = data / "multimodal"
    images = read(folder / "p26_t1.nii.gz", "T1"), read(folder / "p26_flair.nii.gz", "FLAIR")
    return Task(*images, answer=np.eye(4))


def _abdomen(data: Path) -> Task:
    """The upper two thirds of a CT <- its lower two thirds: half of each is in both."""
    ct = read(data / "abdomen_ct" / "ct.nii.gz", "upper CT")
    return Task(_cut(ct, 1 / 3, 1.0), _cut(ct, 0.0, 2 / 3).renamed("lower CT"), answer=np.eye(4))


CASES: dict[str, Callable[[Path], Task]] = {
    "head": _head,
    "half": _half,
    "shared-half": _shared_half,
    "stripped": _stripped,
    "codes": _head,
    "brains": _brains,
    "contrasts": _contrasts,
    "abdomen": _abdomen,
}


def displacement(rng: np.random.Generator, center: np.ndarray, degrees: float, mm: float) -> tuple[np.ndarray, tuple]:
    """A rotation of up to `degrees` about a random axis through `center` and a shift of up to `mm` in a random
    direction, (4, 4) in RAS, and both amounts."""
    axis, direction = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
    angle, length = rng.uniform(0, degrees), rng.uniform(0, mm)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.radians(angle)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(turn) * cross + (1 - np.cos(turn)) * cross @ cross
    matrix[:3, 3] = center - matrix[:3, :3] @ center + length * direction
    return matrix, (angle, length)


# --- the methods ---------------------------------------------------------------------------------------------------


def ours(kind: str, fixed: Image, moving: Image) -> tuple[np.ndarray, str]:
    found = align(fixed, moving, kind)
    return found.matrix, " ".join(found.warnings)


def simpleitk(kind: str, fixed: Image, moving: Image) -> tuple[np.ndarray, str]:
    """Centres of the fields of view, then Mattes mutual information at 1 % of the voxels by gradient descent on three
    resolutions: what its tutorials do."""
    import SimpleITK as sitk

    images = [sitk.Cast(to_sitk(image), sitk.sitkFloat32) for image in (fixed, moving)]
    transform = {
        "rigid": sitk.Euler3DTransform,
        "similarity": sitk.Similarity3DTransform,
        "affine": lambda: sitk.AffineTransform(3),
    }[kind]()
    initial = sitk.CenteredTransformInitializer(*images, transform, sitk.CenteredTransformInitializerFilter.GEOMETRY)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.01, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, 100, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(initial, inPlace=False)
    try:
        found = method.Execute(*images)
    except RuntimeError as error:
        return np.full((4, 4), np.nan), str(error).strip().splitlines()[-1]
    points = np.vstack([np.zeros(3), 100 * np.eye(3)])
    lps = np.array([found.TransformPoint((point * [-1, -1, 1]).tolist()) for point in points]) * [-1, -1, 1]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (lps[1:] - lps[0]).T / 100, lps[0]
    return matrix, ""


METHODS = {OURS: ours, PEER: simpleitk}


# --- the run -------------------------------------------------------------------------------------------------------


def head_points(image: Image, rng: np.random.Generator) -> np.ndarray:
    """Random voxels of the foreground, (N, 3) in RAS mm."""
    voxels = np.argwhere(foreground(image))
    return image.grid.to_ras(voxels[rng.choice(len(voxels), min(POINTS, len(voxels)), replace=False)][:, ::-1])


def distance_mm(found: np.ndarray, truth: np.ndarray, points: np.ndarray) -> float:
    """Mean over points (N, 3) of the distance between two maps (4, 4)."""
    off = found - truth
    return float(np.linalg.norm(points @ off[:3, :3].T + off[:3, 3], axis=1).mean())


def timed(method: str, kind: str, fixed: Image, moving: Image) -> tuple[np.ndarray, float, str]:
    """The map, user and system CPU seconds, and what the method says against its result."""
    begin = time.process_time()
    try:
        matrix, doubt = METHODS[method](kind, fixed, moving)
    except VoxelMorphError as error:
        matrix, doubt = np.full((4, 4), np.nan), str(error)
    return matrix, time.process_time() - begin, doubt


def runs(args: argparse.Namespace, case: str, tell: Callable[[Row], None]) -> None:
    """All starts of one case."""
    task = CASES[case](args.data)
    fixed, moving = task.fixed, task.moving
    rng = generator(args.seed, case)
    points = head_points(fixed, rng)
    truth = task.answer
    if truth is None:
        truth, _, doubt = timed(OURS, args.kind, *(task.whole or (fixed, moving)))
        if not np.isfinite(truth).all():
            raise BenchmarkError(f"The case '{case}' has no answer from the good start: {doubt}")
    counts = {OURS: args.starts, PEER: args.peer_starts}
    for start in range(-1, args.starts):
        # Every start draws, so that a method's starts do not depend on how many there are of the other's.
        motion, (angle, shift) = displacement(rng, moving.grid.center_ras, args.degrees, args.mm)
        if start < 0:
            motion, angle, shift = np.eye(4), 0.0, 0.0
        away = Image(moving.array, moving.grid.transformed(motion), moving.name)
        if case == "codes":
            away = resample(away, reoriented(away.grid, CODES[start % len(CODES)]))
        for method in METHODS:
            if start < counts[method] and counts[method] > 0:
                matrix, cpu, doubt = timed(method, args.kind, fixed, away)
                error = distance_mm(np.linalg.inv(motion) @ matrix, truth, points)
                tell(Row(case, method, start, angle, shift, error, cpu, doubt))


def summary(rows: list[Row]) -> list[str]:
    """A line for each case and method."""
    lines = []
    for case, method in dict.fromkeys((row.case, row.method) for row in rows):
        own = [row for row in rows if (row.case, row.method) == (case, method) and row.start >= 0]
        if not own:
            continue
        errors = np.array([row.error_mm for row in own])
        unsaid = sum(not row.recovered and not row.gave_up for row in own)
        lines.append(
            f"{case}, {method}: {sum(row.recovered for row in own)} of {len(own)} starts within {RECOVERED_MM:g} mm; "
            f"median {np.nanmedian(errors):.2f} mm, largest {np.nanmax(errors):.1f} mm; "
            f"{unsaid} failed without a word; {np.mean([row.cpu_s for row in own]):.1f} CPU s each"
        )
    return lines


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data")
    result.add_argument("--cases", default="head", metavar="A,B", help=f"of {', '.join(CASES)} (default: head)")
    result.add_argument("--kind", default="rigid", choices=("rigid", "similarity", "affine"), help="default: rigid")
    result.add_argument("--starts", type=int, default=100, metavar="N", help="of this project (default: 100)")
    result.add_argument("--peer-starts", type=int, default=30, metavar="N", help="of SimpleITK (default: the first 30)")
    result.add_argument("--degrees", type=float, default=45.0, metavar="D", help="largest rotation (default: 45)")
    result.add_argument("--mm", type=float, default=100.0, metavar="MM", help="largest shift (default: 100)")
    result.add_argument("--seed", type=int, default=0, metavar="S", help="of the displacements (default: 0)")
    result.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each start")
    return result


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 a plain error."""
    import torch

    args = parser().parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []

    def tell(row: Row) -> None:
        rows.append(row)
        where = "good start" if row.start < 0 else f"start {row.start:3d} {row.angle:4.0f} deg {row.shift:4.0f} mm"
        print(f"{row.case:12s}{row.method:10s}{where}: {row.error_mm:7.2f} mm {row.cpu_s:6.1f} CPU s {row.gave_up}")
        sys.stdout.flush()

    try:
        unknown = [name for name in args.cases.split(",") if name not in CASES]
        if unknown:
            raise BenchmarkError(f"There is no case {', '.join(unknown)}. Choose among {', '.join(CASES)}.")
        for case in args.cases.split(","):
            runs(args, case, tell)
    except (BenchmarkError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    finally:
        if args.csv and rows:
            _write(rows, args.csv)
    print("\n" + "\n".join(summary(rows)))
    return 0


def _write(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [part.name for part in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
