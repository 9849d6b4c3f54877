"""The fit by SimpleITK: Mattes mutual information, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..images.image import Image
from .pair import BINS

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .pair import Pair


Progress = Callable[[float], None]


@dataclass(frozen=True)
class _Stage:
    """One optimisation: blur and first step in work voxels, sample points, largest number of iterations."""

    blur: float
    samples: int
    iterations: int
    step: float

    @property
    def cost(self) -> float:
        return float(self.samples * self.iterations)


STAGES = {
    "rigid": (_Stage(1.5, 10_000, 60, 1.0), _Stage(0.5, 20_000, 40, 0.5)),
    "similarity": (_Stage(1.5, 10_000, 40, 0.5),),
    "affine": (_Stage(1.0, 20_000, 80, 0.5), _Stage(0.0, 40_000, 60, 0.25)),
}
# Where a step turns back, it shrinks by this factor; the smallest one, in work voxels, ends a stage. Quick ones take a
# third fewer iterations. From sure starts, seven pairs (brains, T1 and T2, FLAIR or PD, CT) come to the same answers
# with them, by .02 mm where they are known, Dice of brains by .0005; from others, what is hard needs careful ones.
CAREFUL, QUICK = (0.8, 0.005), (0.7, 0.01)


@dataclass(frozen=True, eq=False)
class Sitk:
    """The reduced images as SimpleITK images of the frame's dimension, with masks where values are unknown."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image | None
    moving_mask: sitk.Image | None
    center: np.ndarray
    points: np.ndarray
    spacing: float
    usable: int

    @staticmethod
    def of(pair: Pair) -> Sitk:
        known = np.isfinite(pair.moving.array)
        return Sitk(
            _to_sitk(pair.fixed),
            _to_sitk(pair.moving),
            None if pair.mask.all() else _to_sitk(pair.fixed.with_array(pair.mask.astype(np.uint8))),
            None if known.all() else _to_sitk(pair.moving.with_array(known.astype(np.uint8))),
            pair.samples.points.mean(0),
            pair.samples.points[::50],
            pair.spacing,
            int(np.count_nonzero(pair.mask)),
        )

    def moved(self, before: np.ndarray, after: np.ndarray) -> float:
        """Mean distance between two maps, work voxels."""
        off = after - before
        return float(np.linalg.norm(self.points @ off[:3, :3].T + off[:3, 3], axis=1).mean()) / self.spacing

    def refined(
        self, start: np.ndarray, kind: str, stage: _Stage, seed: int, tell: Progress, quick: bool = False
    ) -> np.ndarray | None:
        """The map of a kind that `stage` makes of `start`; None when SimpleITK gives up (too little overlap)."""
        import SimpleITK as sitk

        relaxation, smallest = QUICK if quick else CAREFUL
        transform = _sitk_transform(kind, start, self.center, self.fixed.GetDimension())
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(BINS)
        # ITK's threads add up in the order in which they finish; one thread makes the result repeatable.
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        part = min(1.0, stage.samples / self.usable)
        if part < 1:
            method.SetMetricSamplingStrategy(method.REGULAR)
            # A seed of 0 would mean the wall clock.
            method.SetMetricSamplingPercentage(part, seed % 1_000_000 + 1)
        if self.fixed_mask is not None:
            method.SetMetricFixedMask(self.fixed_mask)
        if self.moving_mask is not None:
            method.SetMetricMovingMask(self.moving_mask)
        method.SetInterpolator(sitk.sitkLinear)
        # Plain central differences; the default gradient is of a more blurred image than the one compared.
        method.MetricUseFixedImageGradientFilterOff()
        method.MetricUseMovingImageGradientFilterOff()
        method.SetShrinkFactorsPerLevel([1])
        method.SetSmoothingSigmasPerLevel([stage.blur * self.spacing])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetOptimizerAsRegularStepGradientDescent(
            stage.step * self.spacing, smallest * self.spacing, stage.iterations, relaxation, 1e-9
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        return matrix_of(transform) if _executed(method, self, stage, tell) else None


def _executed(method, work: Sitk, stage: _Stage, tell: Progress) -> bool:
    """Run a registration; False when SimpleITK gives up. What `tell` raises stops it and is raised again."""
    import SimpleITK as sitk

    raised: list[BaseException] = []

    def iterated() -> None:
        # An exception cannot cross SimpleITK's C++ frames, so it waits here.
        try:
            tell(min(1.0, (method.GetOptimizerIteration() + 1) / stage.iterations))
        except BaseException as error:
            raised.append(error)
            method.StopRegistration()

    method.AddCommand(sitk.sitkIterationEvent, iterated)
    try:
        method.Execute(work.fixed, work.moving)
    except RuntimeError as error:
        # Ctrl-C while C++ runs is raised at the door of `iterated`, before its `try`: SimpleITK prints it and says so.
        if not raised and "executing the Python Callable" in str(error):
            raise KeyboardInterrupt from error
        if not raised:
            return False
    if raised:
        raise raised[0]
    return True


def _to_sitk(image: Image):
    """A SimpleITK image in the frame's coordinates (neither RAS nor LPS), 2D for a slice."""
    import SimpleITK as sitk

    grid = image.grid
    axes = [axis for axis in range(3) if grid.dimension == 3 or axis != grid.across]
    dimension = len(axes)
    # Unknown voxels are masked out, but blurring reaches them: the commonest value does least harm.
    array = np.nan_to_num(image.array, nan=float(np.nanmedian(image.array)))
    result = sitk.GetImageFromArray(array if dimension == 3 else array.squeeze(grid.flat_axis))
    result.SetOrigin(grid.ijk_to_ras[:dimension, 3].tolist())
    result.SetSpacing(grid.spacing[axes].tolist())
    u, _, vt = np.linalg.svd(grid.directions[:dimension][:, axes])
    result.SetDirection((u @ vt).ravel().tolist())
    return result


def _sitk_transform(kind: str, matrix: np.ndarray, center: np.ndarray, dimension: int):
    """A SimpleITK transform of the given kind that equals `matrix` as far as its kind allows."""
    import SimpleITK as sitk

    kinds: dict[str, tuple[Callable, Callable]] = {
        "rigid": (sitk.Euler2DTransform, sitk.Euler3DTransform),
        "similarity": (sitk.Similarity2DTransform, sitk.Similarity3DTransform),
        "affine": (lambda: sitk.AffineTransform(2), lambda: sitk.AffineTransform(3)),
    }
    transform = kinds[kind][dimension - 2]()
    linear = matrix[:dimension, :dimension]
    transform.SetCenter(center[:dimension].tolist())
    if kind == "affine":
        transform.SetMatrix(linear.ravel().tolist())
    else:
        transform.SetMatrix(linear.ravel().tolist(), 1e-5)
    moved = matrix[:3, :3] @ center + matrix[:3, 3] - center
    transform.SetTranslation(moved[:dimension].tolist())
    return transform


def matrix_of(transform) -> np.ndarray:
    """(4, 4) of a linear SimpleITK transform in its own frame; a 2D one leaves the third axis alone."""
    dimension = transform.GetDimension()
    # Points far apart, so that rounding of large translations does not reach the linear part.
    reach = 1000.0
    origin = np.array(transform.TransformPoint([0.0] * dimension))
    matrix = np.eye(4)
    for axis in range(dimension):
        point = [reach if a == axis else 0.0 for a in range(dimension)]
        matrix[:dimension, axis] = (np.array(transform.TransformPoint(point)) - origin) / reach
    matrix[:dimension, 3] = origin
    return matrix
