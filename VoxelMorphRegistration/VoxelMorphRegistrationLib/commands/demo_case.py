"""The demo: a real brain against a copy of it that was deformed by a known field, so that the error is known.

The fixed image is the MNI152 T1 template (Fonov et al., NeuroImage 2011) that the package nilearn carries. The
moving image shows it on another grid, at moving(y) = template(S(y)) with S(y) = L (y + d(y)): a linear map L after a
smooth random displacement d. So the registration that is right everywhere is the inverse of S, which is computed at
sample points to a thousandth of a millimetre and compared with what the registration says there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from ..fields.displacement import DisplacementField
from ..fields.warp import warp_image
from ..images.files import write_image
from ..images.grid import Grid, rotation
from ..images.image import Image
from ..registration.register import register
from ..registration.result import Registration
from ..registration.settings import Settings
from ..results import outputs

SEED = 2026
LARGEST_MM = 8.0
SAMPLE_POINTS = 20_000
FIXED, MOVING = "fixed.nii.gz", "moving.nii.gz"
_STAGES = ("before", "aligned", "after")


def load_template() -> Image:
    """The MNI152 T1 brain at 1 mm from the installed package nilearn; nothing is downloaded. Raises InputError."""
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError as error:
        raise InputError(
            "The demo needs the package nilearn, which carries the MNI152 template. Install it with: "
            'pip install "nilearn>=0.11"'
        ) from error
    template = load_mni152_template(resolution=1)
    array = np.asarray(template.dataobj, dtype=np.float32).transpose(2, 1, 0)
    return Image(np.ascontiguousarray(array), Grid(array.shape, template.affine), "MNI152 template")


# --- the known deformation ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Truth:
    """S(y) = L (y + d(y)), from moving to fixed positions in RAS mm.

    linear: L (4, 4). displacement: d, defined everywhere by linear interpolation on its grid. lipschitz: a bound of
    |d(a) - d(b)| / |a - b| over all steps of that grid; below 1, S is one to one (y -> x - d(y) contracts).
    """

    linear: np.ndarray
    displacement: DisplacementField
    lipschitz: float

    def to_fixed(self, moving_ras: np.ndarray) -> np.ndarray:
        """S at points (N, 3)."""
        return _apply(self.linear, self.displacement.transform_points(moving_ras))

    def to_moving(self, fixed_ras: np.ndarray, tolerance_mm: float = 1e-3) -> np.ndarray:
        """The inverse of S at points (N, 3): where a perfect registration sends them. Raises InputError.

        y = z - d(y) with z = L^-1 x, by iteration; the error shrinks by at least `lipschitz` a step.
        """
        target = _apply(np.linalg.inv(self.linear), np.asarray(fixed_ras, dtype=np.float64))
        y = target - self.displacement.at(target)
        for _ in range(200):
            step = target - self.displacement.at(y) - y
            y = y + step
            # The steps still to come add up to at most the last one times q / (1 - q).
            if np.linalg.norm(step, axis=1).max() * self.lipschitz / (1 - self.lipschitz) < tolerance_mm:
                return y
        raise InputError("The known deformation of the demo could not be inverted.")


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def make_truth(template: Grid, largest_mm: float = LARGEST_MM, seed: int = SEED) -> Truth:
    """A seeded deformation of the space of `template`: rotated, scaled and shifted, and smoothly bent.

    largest_mm: the largest |d|. It is lowered where the deformation would come close to folding.
    """
    random = np.random.default_rng(seed)
    extent = template.spacing * template.size
    angles = np.radians(random.uniform(4, 9, 3) * random.choice([-1, 1], 3))
    linear = _about(template.center_ras, rotation(angles) * random.uniform(0.94, 1.06, 3))
    linear[:3, 3] += random.uniform(0.02, 0.05, 3) * extent.min() * random.choice([-1, 1], 3)
    grid = _covering(template, margin=0.25, steps=48)
    displacement = _smooth_waves(grid, random, shortest_mm=0.22 * float(extent.max()))
    displacement *= largest_mm / np.linalg.norm(displacement, axis=-1).max()
    lipschitz = _lipschitz(displacement, grid)
    # The determinant then stays above (1 - 0.8)^3.
    if lipschitz > 0.8:
        displacement *= 0.8 / lipschitz
        lipschitz = 0.8
    return Truth(linear, DisplacementField(displacement, grid), lipschitz)


def _about(center: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The 3x3 `matrix` applied about a point, (4, 4)."""
    result = np.eye(4)
    result[:3, :3] = matrix
    result[:3, 3] = center - matrix @ center
    return result


def _covering(grid: Grid, margin: float, steps: int) -> Grid:
    """An axis-aligned grid of about `steps` voxels along its longest side, `margin` of the extent wider each way."""
    corners = grid.corners()
    low, extent = corners.min(0), np.ptp(corners, axis=0)
    low, extent = low - margin * extent, extent * (1 + 2 * margin)
    spacing = extent.max() / steps
    matrix = np.diag([spacing, spacing, spacing, 1.0])
    matrix[:3, 3] = low
    size = np.ceil(extent / spacing).astype(int) + 1
    return Grid(tuple(size[::-1]), matrix)


def _smooth_waves(grid: Grid, random: np.random.Generator, shortest_mm: float, waves: int = 12) -> np.ndarray:
    """(K, J, I, 3): for each component a sum of plane waves of random direction and of `shortest_mm` to twice that."""
    positions = grid.positions()
    result = np.zeros((*grid.shape, 3))
    for axis in range(3):
        for _ in range(waves):
            direction = random.normal(size=3)
            length = shortest_mm * random.uniform(1, 2)
            wave = 2 * np.pi / length * direction / np.linalg.norm(direction)
            result[..., axis] += length * np.cos(positions @ wave + random.uniform(0, 2 * np.pi))
    return result


def _lipschitz(displacement: np.ndarray, grid: Grid) -> float:
    """A bound of the steepness of a trilinear field on an axis-aligned grid.

    Within a cell each partial derivative is a mean of the differences along the cell's edges; the Frobenius norm of
    the largest of them bounds the operator norm.
    """
    largest = []
    for axis in range(3):
        step = np.linalg.norm(np.diff(displacement, axis=axis), axis=-1) / grid.spacing[2 - axis]
        # Of the four parallel edges of a cell the steepest.
        for other in (a for a in range(3) if a != axis):
            pair = [np.take(step, range(a, step.shape[other] - 1 + a), axis=other) for a in (0, 1)]
            step = np.maximum(*pair)
        largest.append(step)
    return float(np.sqrt(sum(step**2 for step in largest)).max())


# --- the moving image -------------------------------------------------------------------------------------------


def make_moving(template: Image, truth: Truth, seed: int = SEED) -> Image:
    """The deformed template as another scanner might show it: an oblique, anisotropic, left-handed grid, another
    intensity scale and gamma, a bias field and noise.
    """
    random = np.random.default_rng(seed + 1)
    grid = _moving_grid(template, truth)
    shown = warp_image(template, grid, truth.displacement, truth.linear, 0.0).array
    values = np.clip(shown / np.percentile(template.array[template.array > 0], 99.5), 0, 1.2) ** 0.75
    place = (grid.positions() - grid.center_ras) / (grid.spacing * grid.size)
    values = values * np.exp(0.25 * place @ random.choice([-1.0, 1.0], 3) - 0.3 * (place**2).sum(-1))
    noise = random.normal(scale=0.02, size=(2, *grid.shape))
    # The magnitude of a noisy complex signal, as in MRI.
    values = np.hypot(values + noise[0], noise[1])
    return Image(np.rint(1500 * values).astype(np.int16), grid, "moving image")


def _moving_grid(template: Image, truth: Truth) -> Grid:
    """A tilted left-handed grid about the brain in the moving image's space."""
    brain = np.argwhere(template.array > 0)[:: max(1, np.count_nonzero(template.array) // 5000)]
    points = truth.to_moving(template.grid.to_ras(brain[:, ::-1]))
    # Left to right, front to back, bottom to top is left-handed.
    axes = rotation(np.radians([9, -6, 12])) @ np.diag([1.0, -1.0, 1.0])
    spacing = np.array([1.2, 1.2, 1.5]) * template.grid.spacing.min()
    along = points @ axes
    margin = 8 * spacing
    low, high = along.min(0) - margin, along.max(0) + margin
    size = np.ceil((high - low) / spacing).astype(int)
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = axes @ low
    return Grid(tuple(size[::-1]), matrix)


# --- the measurement --------------------------------------------------------------------------------------------


def sample_points(template: Image, count: int = SAMPLE_POINTS, seed: int = SEED) -> np.ndarray:
    """Centres (N, 3) in RAS mm of voxels of the brain, drawn without replacement."""
    inside = np.flatnonzero(template.array.ravel() > 0)
    chosen = np.random.default_rng(seed + 2).choice(inside, min(count, inside.size), replace=False)
    kji = np.stack(np.unravel_index(np.sort(chosen), template.array.shape), -1)
    return template.grid.to_ras(kji[:, ::-1])


def measure_errors(result: Registration, truth: Truth, points: np.ndarray) -> dict[str, np.ndarray]:
    """Distance in mm (N,) between where each stage sends `points` (fixed RAS) and where they truly belong."""
    true = truth.to_moving(points)
    found = {
        "before": points,
        "aligned": _apply(result.linear, points),
        "after": result.transform_points(points),
    }
    return {stage: np.linalg.norm(found[stage] - true, axis=1) for stage in _STAGES}


@dataclass(frozen=True, eq=False)
class DemoResult:
    """errors_mm: per stage (N,) at the sample points. bend_mm: the largest |d| at them. As text, the demo's table."""

    registration: Registration
    truth: Truth
    errors_mm: dict[str, np.ndarray]
    bend_mm: float
    folder: Path

    def __str__(self) -> str:
        report = self.registration.report
        last = "after refinement" if report.refinement else "after the network"
        names = {"before": "before", "aligned": f"after {report.settings['alignment']}", "after": last}
        lines = [
            f"  {'':<20}{'error in the brain, mm':^27}{'similarity':^20}",
            f"  {'':<20}{'mean':>9}{'95 %':>9}{'max':>9}{'NCC':>10}{'MI':>10}",
        ]
        for stage in _STAGES:
            error, similar = self.errors_mm[stage], report.similarity[stage]
            numbers = (error.mean(), np.percentile(error, 95), error.max())
            lines.append(
                f"  {names[stage]:<20}"
                + "".join(f"{number:>9.2f}" for number in numbers)
                + f"{similar['ncc']:>10.3f}{similar['mi']:>10.3f}"
            )
        inside = report.folding["inside"]
        lines += [
            f"  measured at {len(self.errors_mm['after'])} points; the known deformation bends by up to "
            f"{self.bend_mm:.1f} mm there, beside its linear part",
            f"  folded voxels in the brain: {inside['count']} of {inside['voxels']} "
            f"({inside['any_corner_count']} by the stricter count)",
            f"  model {report.model['name']}, {report.passes} pass(es) on {report.device}, "
            f"{report.seconds['total']:.1f} s",
            *(f"  Warning: {text}" for text in report.warnings),
            f"Picture: {self.folder / outputs.OVERVIEW}",
            f"The images ({FIXED}, {MOVING}) and the results are in {self.folder}",
        ]
        return "\n".join(lines)


def run(
    output: str | Path,
    *,
    model: str = "auto",
    overwrite: bool = False,
    progress: Callable[[str, float], bool | None] | None = None,
    settings: Settings | None = None,
    template: Image | None = None,
) -> DemoResult:
    """Make the pair, register it as the command line does, write all files into `output`, measure the error.

    model: name or file. template: another fixed image than nilearn's template, 0 outside the anatomy. Raises errors
    of this library.
    """
    folder = Path(output)
    settings = (settings or Settings()).replace(model=model)
    outputs.check_folder(folder, overwrite=overwrite)
    _check_images(folder, overwrite)
    tell = progress or (lambda stage, fraction: None)
    tell("making the images", 0.0)
    fixed = template or load_template()
    truth = make_truth(fixed.grid)
    moving = make_moving(fixed, truth)
    tell("making the images", 1.0)
    result = register(fixed, moving, None, settings, progress)
    points = sample_points(fixed)
    errors = measure_errors(result, truth, points)
    bend_mm = float(np.linalg.norm(truth.displacement.at(truth.to_moving(points)), axis=1).max())
    tell("writing", 0.0)
    outputs.write_registration(result, fixed, moving, folder, overwrite=overwrite)
    write_image(fixed, folder / FIXED)
    write_image(moving, folder / MOVING)
    tell("writing", 1.0)
    return DemoResult(result, truth, errors, bend_mm, folder)


def _check_images(folder: Path, overwrite: bool) -> None:
    existing = [name for name in (FIXED, MOVING) if (folder / name).exists()]
    if existing and not overwrite:
        raise OutputError(
            f"The folder {folder} already holds {', '.join(existing)}. Give another folder, or --overwrite to "
            "replace these files."
        )
