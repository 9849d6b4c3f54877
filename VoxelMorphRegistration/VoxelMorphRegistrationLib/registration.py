"""The pipeline, top to bottom: align, bring onto the working grid, run the network, compose, warp, measure."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from . import __version__, alignment, evaluation, memory, models
from .errors import Cancelled, DeviceError, FieldError, InputError, SettingsError
from .field import (
    INVERSE_TOLERANCE_MM,
    DisplacementField,
    grid_over,
    linear_determinant,
    warp_image,
    warp_labels,
)
from .geometry import Grid, Image, bounding_box, resample, smoothed, working_grid

ProgressCallback = Callable[[str, float], bool | None]
REFINEMENTS = ("off", "fast", "default", "accurate")
SIMILARITIES = ("auto", "lncc", "mind", "mi", "mse")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32")
# The network sees this much around what is brighter than the background.
SURROUNDINGS_MM = 5.0
# A report warns when less of the fixed anatomy, in percent, is covered by the moving image.
SMALLEST_COVERAGE = 75.0


@dataclass(frozen=True)
class Settings:
    """Everything that decides a result, besides the images. The same for panel, console and command line.

    model: name of a shipped model, a model file, "auto" (the general model of the images' dimension), or "none"
    (no network: refinement alone, for any anatomy).
    alignment: none, centers, mass, rigid or affine. passes: how often the network is applied to its own result
    (None: as the model's card says). refinement: off, fast, default or accurate (see refinement.PRESETS).
    similarity: what the refinement compares: lncc (local correlation, one modality), mind (self-similarity
    descriptors, any two), mi (mutual information), mse (equal intensities) or auto (lncc or mind, by the images).
    smoothness: factor of the refinement's smoothing. label_weight, landmark_weight: how much given labels and
    landmarks guide the refinement, beside the images (0: they only measure). device:
    auto, cpu, cuda or mps. precision: auto (bfloat16 convolutions where the processor has them and the model allows
    it) or float32. working_spacing_mm: voxel size of the network's grid (None: the model's). seed: of the
    alignment's sampling. background: value outside the moving image (None: its minimum). label_interpolation:
    nearest or linear. jacobian: "total" (as the written transform) or "deformable" (without the linear part).
    """

    model: str = "auto"
    alignment: str = "affine"
    passes: int | None = None
    refinement: str = "off"
    similarity: str = "auto"
    smoothness: float = 1.0
    label_weight: float = 0.0
    landmark_weight: float = 0.0
    device: str = "auto"
    precision: str = "auto"
    working_spacing_mm: float | None = None
    seed: int = 0
    background: float | None = None
    label_interpolation: str = "nearest"
    jacobian: str = "total"

    def __post_init__(self) -> None:
        choices = {
            "alignment": alignment.METHODS,
            "refinement": REFINEMENTS,
            "similarity": SIMILARITIES,
            "device": DEVICES,
            "precision": PRECISIONS,
            "label_interpolation": ("nearest", "linear"),
            "jacobian": ("total", "deformable"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"The setting {name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}."
                )
        if not isinstance(self.model, str) or not self.model:
            raise SettingsError("The setting model must be a model's name, a model file, 'auto' or 'none'.")
        if self.model == "none" and self.refinement == "off":
            raise SettingsError("Without a model there is nothing to do when refinement is off. Choose a refinement.")
        if self.passes is not None and not (_is_whole(self.passes) and 1 <= self.passes <= 10):
            raise SettingsError(f"The setting passes is {self.passes!r}; it must be a whole number from 1 to 10.")
        for name, low, high in (("smoothness", 0.2, 5), ("label_weight", 0, 100), ("landmark_weight", 0, 100)):
            value = getattr(self, name)
            if not (_is_number(value) and low <= value <= high):
                raise SettingsError(f"The setting {name} is {value!r}; it must be a number from {low} to {high}.")
        if not _is_whole(self.seed) or self.seed < 0:
            raise SettingsError(f"The setting seed is {self.seed!r}; it must be a whole number of at least 0.")
        spacing = self.working_spacing_mm
        if spacing is not None and not (_is_number(spacing) and 0 < spacing < 1000):
            raise SettingsError(f"The setting working_spacing_mm is {spacing!r}; it must be a positive number.")
        if self.background is not None and not _is_number(self.background):
            raise SettingsError(f"The setting background is {self.background!r}; it must be a number.")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> Settings:
        """Settings from JSON; entries left out keep their defaults. Raises SettingsError."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingsError(f"The settings are not valid JSON: {error}.") from error
        if not isinstance(values, dict):
            raise SettingsError("The settings must be a JSON object with names and values.")
        unknown = sorted(set(values) - {f.name for f in fields(Settings)})
        if unknown:
            raise SettingsError(f"There is no setting named {', '.join(unknown)}.")
        return Settings(**values)

    def replace(self, **changes) -> Settings:
        """A copy with some settings changed."""
        return replace(self, **changes)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


@dataclass(frozen=True)
class Report:
    """What was done and how well it worked.

    similarity, dice, hd95_mm and tre_mm have the entries "before" (as the images lie, with the initial transform),
    "aligned" (after the linear alignment) and "after". refinement: preset, similarity and why it was chosen, its
    value before and after, steps at each stage, whether it went on in detail and what guided it, or None. checks:
    of each stage that was made ("alignment", by labels alone; "network", "refinement"), whether its result was
    kept, and the measures of the images and the mean Dice of given labels before and after it. folding: of the
    deformable
    part, `inside` the mask or the foreground of the fixed
    image, and in the whole `volume`. volume_change_percent: by how much each structure is larger in the moving image,
    {label: percent}, from the mean determinant of T over the fixed label (the warped one where there is no fixed one).
    covered_percent: the part of the measured region that T carries into the moving image. inverse: if the inverse
    transform was made, its tolerance at its voxels, and the "mean_mm" and "max_mm" by which T(T^-1(y)) misses y over
    the measured region, between voxels, too. worst_ras: where, in fixed
    RAS mm, the smallest "determinant" of the measured region and the largest "landmark" error are.
    """

    similarity: dict[str, dict[str, float]]
    folding: dict
    largest_displacement_mm: float
    linear: list[list[float]]
    dice: dict | None = None
    hd95_mm: dict | None = None
    tre_mm: dict | None = None
    volume_change_percent: dict | None = None
    covered_percent: float | None = None
    inverse: dict[str, float] | None = None
    worst_ras: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    model: dict = field(default_factory=lambda: {"name": "none", "file": None})
    passes: int = 0
    refinement: dict | None = None
    checks: dict[str, dict] = field(default_factory=dict)
    working_grid: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    version: str = __version__

    def to_dict(self) -> dict:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(_json_ready(self.to_dict()), indent=2)


def _json_ready(value):
    """NaN is no JSON: None stands for what cannot be measured."""
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True, eq=False)
class Registration:
    """The result. T(x) = A (x + u(x)) carries fixed to moving positions, both in RAS mm of the world.

    field: u on the network's flow grid. linear: A (4, 4). warped: the moving image on the fixed grid.
    warped_labels: the moving labels on the fixed grid. jacobian: determinant map on the fixed grid. inverse: the
    displacement of T^-1, from moving to fixed positions, on a grid over the moving image, if it was asked for.
    """

    field: DisplacementField
    linear: np.ndarray
    warped: Image
    jacobian: Image
    report: Report
    warped_labels: Image | None = None
    inverse: DisplacementField | None = None

    def total_field(self, grid: Grid | None = None) -> DisplacementField:
        """The displacement of T, A (x + u(x)) - x, on the field's grid or another.

        Of a slice, three layers: readers of transform files take a single layer for a 2D transform.
        """
        field = self.field
        if grid is None and field.grid.dimension == 2:
            field = field.padded(across=True)
        return field.then_linear(self.linear, grid)

    def transform_points(self, points_ras: np.ndarray) -> np.ndarray:
        """Fixed positions (N, 3) in RAS mm to moving positions."""
        moved = self.field.transform_points(points_ras)
        return moved @ self.linear[:3, :3].T + self.linear[:3, 3]


@memory.kept()
def register(
    fixed: Image,
    moving: Image,
    model: models.Model | str | Path | None = None,
    settings: Settings | None = None,
    progress: ProgressCallback | None = None,
    *,
    fixed_labels: Image | None = None,
    moving_labels: Image | None = None,
    fixed_points: np.ndarray | None = None,
    moving_points: np.ndarray | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    initial_transform: np.ndarray | None = None,
    inverse: bool = False,
) -> Registration:
    """Deform `moving` onto `fixed`.

    model: a loaded model, a name or a file; settings.model when None. progress(stage, fraction in 0..1) is called
    throughout; returning False or raising Cancelled cancels. labels: maps on the grids of their images, for the
    report (and the warped labels); points: corresponding landmarks (N, 3) in RAS mm, for the report. Both guide the
    refinement where the settings weight them. fixed_mask: where the fixed image counts, for alignment and
    measurement. moving_mask: where the moving image counts in the refinement.
    initial_transform: (4, 4) in RAS mm, fixed to moving. inverse: whether to make the inverse transform as well; a
    warning says so where there is none. Raises errors of this library with plain sentences.
    """
    settings = settings or Settings()
    if isinstance(model, (str, Path)):
        # One road for a name, wherever it is given: the settings check it, and the report records it.
        settings, model = settings.replace(model=str(model)), None
    run = _Run(progress)
    inputs = {"fixed": fixed.name, "moving": moving.name}
    with run.stage("checking"):
        if fixed is moving or (fixed.array is moving.array and fixed.grid.same_as(moving.grid)):
            raise InputError("The fixed and the moving image are the same. Choose two different images.")
        fixed = usable_image(fixed, "fixed image", run.warnings)
        moving = usable_image(moving, "moving image", run.warnings)
        _check_pair(fixed, moving)
        _check_extras(fixed, moving, fixed_labels, moving_labels, fixed_points, moving_points, fixed_mask, moving_mask)
        _check_guides(settings, fixed_labels, fixed_points)
        mask = _measured_region(fixed, fixed_mask)
    with run.stage("loading the model"):
        network = None
        if model is not None or settings.model != "none":
            network = _loaded(model, settings, fixed.grid.dimension)
            grids = pass_grids(_surroundings(fixed.grid, mask), network.card, settings)
            largest = max(grids, key=lambda grid: grid.voxel_count)
            network = _with_memory(network, largest, settings, run.warnings)
    with run.stage("aligning"):
        linear = _linear_part(fixed, moving, settings, initial_transform, fixed_mask, run)
        checks = _checks(fixed_labels, moving_labels, settings, run)
        linear = replace(linear, matrix=checks.alignment(linear.start, linear.matrix))
    pair = _pair(fixed, moving, linear.matrix, mask, moving_mask)
    deformation, refined = None, None
    facts = {"device": choose_device(settings.device)}
    if network is not None:
        with run.stage("registering"):
            deformation, network = _deform(fixed, moving, linear, grids, network, settings.precision, run)
            deformation = checks.network(pair, deformation.covering(fixed.grid))
        file = network.path.name if network.path else None
        name = {"name": network.card.name, "file": file, "precision": network.precision}
        facts = {"device": network.device, "model": name, "passes": len(grids), "working_grid": grids[-1].to_json()}
    if settings.refinement != "off":
        with run.stage("refining"):
            guides = {}
            if settings.label_weight:
                guides["labels"] = fixed_labels, moving_labels
            if settings.landmark_weight:
                guides["points"] = fixed_points, moving_points
            deformation, refined = _refine(replace(pair, **guides), deformation, facts["device"], settings, run, checks)
    # Readers of the written field must find it linear up to the outermost fixed voxels.
    deformation = deformation.padded()
    with run.stage("warping"):
        warped = warp_image(moving, fixed.grid, deformation, linear.matrix, settings.background)
        run.report(0.5)
        warped_labels = checks.warped_labels
        if warped_labels is None and moving_labels is not None:
            mode = settings.label_interpolation
            warped_labels = warp_labels(moving_labels, fixed.grid, deformation, linear.matrix, mode)
    backward = accuracy = None
    if inverse:
        with run.stage("inverting"):
            backward, accuracy = _inverse(fixed.grid, moving.grid, mask, deformation, linear.matrix, run.warnings)
    with run.stage("measuring"):
        determinant, inside = deformation.volume_change(mask, fixed.grid)
        folding = {
            "inside": inside.to_dict(),
            "volume": {"count": int(np.count_nonzero(determinant.array <= 0)), "voxels": fixed.grid.voxel_count},
        }
        run.report(0.3)
        similar = _similarities(fixed, moving, warped, mask, linear, run)
        overlaps = _overlaps(fixed_labels, checks.carried, run)
        errors = _landmark_errors(fixed_points, moving_points, linear, deformation)
        factor = linear_determinant(linear.matrix, fixed.grid)
        segments = fixed_labels or warped_labels
        changes = None if segments is None else evaluation.volume_change(segments, determinant, factor)
        covered = _covered_percent(fixed.grid, moving.grid, mask, linear, deformation)
        jacobian = determinant
        if settings.jacobian == "total":
            jacobian = determinant.with_array(determinant.array * np.float32(factor))
    _warn(run.warnings, folding, similar, checks.found)
    _warn_of_inputs(run.warnings, covered, errors)
    report = Report(
        similarity=similar,
        folding=folding,
        largest_displacement_mm=float(np.linalg.norm(deformation.displacement_ras, axis=-1).max()),
        linear=linear.matrix.tolist(),
        seconds=run.seconds,
        refinement=refined,
        checks=checks.found,
        settings=asdict(settings),
        inputs=inputs,
        warnings=run.warnings,
        tre_mm=errors,
        volume_change_percent=changes,
        covered_percent=covered,
        inverse=accuracy,
        worst_ras=_worst_places(determinant, mask, fixed_points, errors),
        **facts,
        **overlaps,
    )
    run.finish()
    return Registration(deformation, linear.matrix, warped, jacobian, report, warped_labels, backward)


class _Run:
    """Stages, their seconds, progress and warnings of one registration."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self._progress = progress
        self._stage = ""
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: str):
        self._stage = name
        self.report(0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        self.report(1.0)

    def report(self, fraction: float) -> None:
        if self._progress is not None and self._progress(self._stage, min(max(fraction, 0.0), 1.0)) is False:
            raise Cancelled

    def finish(self) -> None:
        self.seconds["total"] = round(sum(self.seconds.values()), 3)


# --- checks -----------------------------------------------------------------------------------------------------


def usable_image(image: Image, role: str, warnings: list[str]) -> Image:
    """The image with finite values only. Raises InputError when it is empty or constant, or mostly not finite.

    NaN and infinite voxels are set to the smallest finite value, and `warnings` says so. The result is named for
    messages: its role and own name.
    """
    if image.name == role or image.name.startswith(f"{role.split()[0]} volume "):
        # Named for its part already, as in "fixed volume 'CT'".
        name = image.name
    else:
        name = f"{role} ({image.name})" if image.name != "image" else role
    array = image.array
    if array.dtype.kind not in "biuf":
        raise InputError(f"The {name} holds {array.dtype} values. Give an image of real numbers.")
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        bad = array.size - int(np.count_nonzero(finite))
        if bad > array.size / 2:
            raise InputError(
                f"The {name} has no usable values: {bad} of {array.size} voxels are NaN or infinite. "
                "Check how it was made."
            )
        if bad:
            array = np.where(finite, array, array[finite].min())
            warnings.append(f"The {name} has {bad} voxels that are NaN or infinite; they were set to its minimum.")
    if array.min() == array.max():
        raise InputError(
            f"The {name} is empty: all its voxels have the value {array.flat[0]:g}. Choose an image with content."
        )
    return Image(array, image.grid, name)


def _check_pair(fixed: Image, moving: Image) -> None:
    if fixed.grid.dimension != moving.grid.dimension:
        raise InputError(
            f"The fixed image is {fixed.grid.dimension}D and the moving image {moving.grid.dimension}D. "
            "Give two slices or two volumes."
        )
    for image, role in ((fixed, "fixed"), (moving, "moving")):
        thin = sum(n < 4 for n in image.grid.shape)
        if thin > (1 if image.grid.dimension == 2 else 0):
            raise InputError(
                f"The {role} image has {'x'.join(map(str, image.grid.size))} voxels; along every axis at least 4 are "
                "needed (or a single one for a 2D image)."
            )


def _check_guides(settings: Settings, fixed_labels, fixed_points) -> None:
    for weight, given, what in (
        (settings.label_weight, fixed_labels, "label"),
        (settings.landmark_weight, fixed_points, "landmark"),
    ):
        if weight and settings.refinement == "off":
            raise SettingsError(f"The setting {what}_weight guides the refinement, which is off. Choose a refinement.")
        if weight and given is None:
            raise SettingsError(f"The setting {what}_weight is {weight:g}, but there are no fixed and moving {what}s.")


def _check_extras(
    fixed, moving, fixed_labels, moving_labels, fixed_points, moving_points, fixed_mask, moving_mask
) -> None:
    for extra, image, what, whose in (
        (fixed_labels, fixed, "fixed labels", "fixed image"),
        (moving_labels, moving, "moving labels", "moving image"),
        (fixed_mask, fixed, "fixed mask", "fixed image"),
        (moving_mask, moving, "moving mask", "moving image"),
    ):
        if extra is None:
            continue
        if not extra.grid.same_as(image.grid, 1e-2):
            raise InputError(
                f"The {what} ({extra.name}) are on another grid than the {whose}: {extra.grid.shape} against "
                f"{image.grid.shape} voxels, or another position. Resample them onto the image's grid."
            )
        if extra.array.dtype.kind == "f" and not np.array_equal(extra.array, np.rint(extra.array)):
            raise InputError(f"The {what} ({extra.name}) hold values that are not whole numbers; give a label map.")
        if what.endswith("mask") and not extra.array.any():
            raise InputError(f"The {what} is empty. Mark the region that counts, or leave the mask out.")
    if fixed_labels is not None and moving_labels is None:
        raise InputError("Fixed labels were given without moving labels. Give both, or moving labels alone.")
    if (fixed_points is None) != (moving_points is None):
        raise InputError("Landmarks were given for one image only. Give fixed and moving landmarks, or none.")
    if fixed_points is not None:
        evaluation.target_registration_error(fixed_points, moving_points)


def _intensity_window(image: Image, low: float, high: float) -> tuple[float, float]:
    """Two percentiles of the values, from at most about a million voxels."""
    values = image.array.ravel()
    values = values[:: max(1, values.size // 1_000_000)]
    bottom, top, brightest = (float(v) for v in np.percentile(values, [low, high, max(high, 99.95)]))
    # A small object in a large empty field: hardly anything of it is below the percentile, or nothing at all.
    if top - bottom < 0.01 * (brightest - bottom):
        top = brightest
    if top <= bottom:
        bottom, top = float(image.array.min()), float(image.array.max())
    return bottom, top


def _measured_region(fixed: Image, fixed_mask: Image | None) -> np.ndarray:
    """Where folds and similarity are measured: the mask, else where the image rises above its dark background."""
    if fixed_mask is not None:
        return fixed_mask.array > 0
    low, high = _intensity_window(fixed, 0.5, 99.5)
    region = fixed.array > low + 0.05 * (high - low)
    return region if region.any() else np.ones(fixed.grid.shape, bool)


def _surroundings(grid: Grid, mask: np.ndarray) -> Grid:
    """The part of the grid around the mask: a network has nothing to see in an empty background."""
    margin = np.where(grid.size > 1, np.ceil(SURROUNDINGS_MM / grid.spacing), 0).astype(int)
    box = bounding_box(mask)
    start = np.maximum(np.array([part.start for part in box])[::-1] - margin, 0)
    stop = np.minimum(np.array([part.stop for part in box])[::-1] + margin, grid.size)
    return grid.cropped(start, stop - start)


# --- model, device, memory ---------------------------------------------------------------------------------------


def choose_device(name: str) -> str:
    """ "auto" to "cuda" where one is found, else "cpu"; raises DeviceError when the device asked for is missing."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "No CUDA device was found. Choose device 'auto' or 'cpu', or install a CUDA build of PyTorch."
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("No Apple GPU (mps) was found. Choose device 'auto' or 'cpu'.")
    return name


def default_model(dimension: int) -> str:
    """The shipped model for images of a dimension. Raises InputError when there is none."""
    name = f"general-{dimension}d"
    if name not in models.model_names():
        raise InputError(
            f"The images are {dimension}D, and no {dimension}D model is shipped. "
            "Give a model file for such images (setting 'model')."
        )
    return name


def _loaded(model: models.Model | None, settings: Settings, dimension: int) -> models.Model:
    device = choose_device(settings.device)
    if model is not None:
        if model.device != device and model.path is not None:
            model = models.load_model(model.path, device, settings.precision)
    else:
        path = models.find_model(default_model(dimension) if settings.model == "auto" else settings.model)
        _check_dimension(models.read_card(path), dimension)
        model = models.load_model(path, device, settings.precision)
    _check_dimension(model.card, dimension)
    return model


def _check_dimension(card: models.ModelCard, dimension: int) -> None:
    if card.dimension != dimension:
        fitting = [n for n in models.model_names() if models.read_card(models.find_model(n)).dimension == dimension]
        advice = (
            f"Shipped {dimension}D models: {', '.join(fitting)}."
            if fitting
            else (f"No {dimension}D model is shipped; give a {dimension}D model file.")
        )
        raise InputError(
            f"The images are {dimension}D, but the model '{card.name}' is for {card.dimension}D images. {advice}"
        )


def network_grid(fixed: Grid, card: models.ModelCard, settings: Settings, scale: float = 1.0) -> Grid:
    """The working grid for a model: its spacing (or one that fits its number of voxels) times `scale`, its stride and
    orientation.
    """
    spacing = settings.working_spacing_mm
    if spacing is None and card.spacing_mm is not None:
        spacing = card.spacing_mm
        if card.dimension == 2:
            spacing = _spread(card.spacing_mm, fixed)
    if spacing is None:
        extents = [s * n for s, n in zip(fixed.spacing, fixed.size, strict=True) if n > 1]
        spacing = (np.prod(extents) / (card.target_voxels or 1_000_000)) ** (1 / len(extents))
        # Finer than the image itself shows the network nothing new.
        spacing = max(spacing, min(s for s, n in zip(fixed.spacing, fixed.size, strict=True) if n > 1))
    if card.shape_kji is not None:
        return _locked_grid(fixed, card, spacing)
    return working_grid(fixed, np.asarray(spacing) * scale, card.stride, card.orientation)


def pass_grids(fixed: Grid, card: models.ModelCard, settings: Settings) -> list[Grid]:
    """The working grid of each pass; the same object where two passes share one."""
    passes, scales = settings.passes or card.passes, card.pass_scales
    if card.shape_kji is not None:
        return [network_grid(fixed, card, settings)] * passes
    known: dict[float, Grid] = {}
    for scale in set(scales):
        known[scale] = network_grid(fixed, card, settings, scale)
    return [known[scales[min(number, len(scales) - 1)]] for number in range(passes)]


def _spread(spacing: tuple[float, ...], grid: Grid) -> tuple[float, ...]:
    """Two in-plane spacings as three, with the grid's own across the plane."""
    pair = iter(spacing)
    return tuple(float(own) if n == 1 else next(pair) for own, n in zip(grid.spacing, grid.size, strict=True))


def _locked_grid(fixed: Grid, card: models.ModelCard, spacing) -> Grid:
    """A grid of the model's own shape centred on the fixed image, its spacing enlarged where the image is larger."""
    base = working_grid(fixed, spacing, 1, card.orientation)
    wanted = list(card.shape_kji)
    if fixed.dimension == 2:
        wanted.insert(base.flat_axis, 1)
    count = np.array(wanted[::-1])
    factor = np.maximum(base.size / count, 1.0)
    start = (base.size - 1) / 2 - factor * (count - 1) / 2
    # Whole voxels where the spacing is kept, so that nothing is interpolated there.
    start = np.where(factor == 1.0, np.floor(start), start)
    matrix = base.ijk_to_ras.copy()
    matrix[:3, 3] = base.to_ras(start)
    matrix[:3, :3] *= factor
    return Grid(tuple(wanted), matrix)


def available_memory(device: str) -> int | None:
    """Free bytes on the device, or None where that cannot be told."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _with_memory(network: models.Model, grid: Grid, settings: Settings, warnings: list[str]) -> models.Model:
    """The network on a device with enough memory. Raises DeviceError when not even the CPU has it."""
    needed = network.card.memory_bytes(grid.voxel_count)
    if network.device != "cpu":
        free = available_memory(network.device)
        if free is None or needed <= free:
            return network
        network = _on_cpu(network, settings.precision, warnings)
    _check_memory(needed, f"The working grid of {'x'.join(map(str, grid.size))} voxels")
    return network


def _check_memory(needed: int, what: str) -> None:
    free = available_memory("cpu")
    if free is not None and needed > free:
        raise DeviceError(
            f"{what} needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free. "
            "Set a coarser working spacing, or crop the fixed image."
        )


def _on_cpu(network: models.Model, precision: str, warnings: list[str]) -> models.Model:
    if network.path is None:
        raise DeviceError("The GPU has too little memory, and the model has no file to load it on the CPU from.")
    warnings.append("The GPU has too little memory for this pair; the network ran on the CPU.")
    return models.load_model(network.path, "cpu", precision)


# --- the steps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Linear:
    """Linear maps (4, 4), fixed to moving RAS mm: where the images lay at first, and the alignment."""

    start: np.ndarray
    matrix: np.ndarray


def _linear_part(fixed, moving, settings, initial, fixed_mask, run) -> _Linear:
    result = alignment.align(
        fixed,
        moving,
        settings.alignment,
        initial=initial,
        fixed_mask=fixed_mask,
        seed=settings.seed,
        progress=run.report,
    )
    advice = "Check the overlay; if it is wrong, bring the images together by hand and choose alignment 'none'."
    run.warnings.extend(f"{warning} {advice}" for warning in result.warnings)
    return _Linear(np.eye(4) if initial is None else np.asarray(initial, np.float64), result.matrix)


def _deform(fixed, moving, linear, grids, network, precision, run):
    """The composed field of the passes, one on each of `grids`, and the network that made it."""
    window = [intensity_scale(image, network.card) for image in (fixed, moving)]
    total = target = fine = None
    for number, grid in enumerate(grids):
        run.report(number / len(grids))
        if target is None or grid is not grids[number - 1]:
            target = normalised(resample(fixed, grid, None, window[0][0], smooth=True), window[0])
            fine = None
        if total is None:
            source = resample(moving, grid, linear.matrix, window[1][0], smooth=True)
        else:
            if fine is None:
                fine = smoothed(moving, moving.grid.ras_to_ijk @ linear.matrix @ grid.ijk_to_ras)
            source = warp_image(fine, grid, total, linear.matrix, window[1][0])
        pair = normalised(source, window[1]), target
        try:
            step = run_network(network, *pair, grid)
        except RuntimeError as error:
            if network.device == "cpu" or not _out_of_memory(error):
                raise
            network = _on_cpu(network, precision, run.warnings)
            step = run_network(network, *pair, grid)
        total = step if total is None else total.compose(step)
    return total, network


def _pair(fixed, moving, matrix, mask, moving_mask):
    """What refinement and checks compare, without labels and landmarks."""
    from . import refinement

    windows = []
    for image in (fixed, moving):
        low, high = _intensity_window(image, 0.5, 99.5)
        windows.append((low, 1.0 / (high - low)))
    return refinement.Pair(fixed, moving, matrix, tuple(windows), mask, moving_mask)


def _checks(fixed_labels, moving_labels, settings, run):
    """What keeps every stage from making it worse."""
    from . import guard

    overlap = None
    if fixed_labels is not None:
        overlap = guard.Overlap(fixed_labels, moving_labels, settings.label_interpolation)
    return guard.Checks(overlap, settings.similarity, run.warnings)


def _refine(work, start, device, settings, run, checks):
    """The refined field and what the report says of it. work: the pair with what guides it."""
    from . import refinement

    if device == "mps":
        # Apple's GPU lacks 3D interpolation.
        device = "cpu"
        run.warnings.append("The refinement ran on the CPU: the Apple GPU cannot interpolate volumes.")
    _check_memory(refinement.memory_bytes(work), "The refinement")
    similarity, reason = settings.similarity, "As set."
    if similarity == "auto":
        similarity, reason = refinement.choose_similarity(work, start)
    weights = settings.smoothness, settings.label_weight, settings.landmark_weight
    options = refinement.Options(settings.refinement, similarity, *weights)
    try:
        result = refinement.refine(work, start, options, device=device, progress=run.report)
    except RuntimeError as error:
        if device == "cpu" or not _out_of_memory(error):
            raise
        run.warnings.append("The GPU has too little memory for this pair; the refinement ran on the CPU.")
        result = refinement.refine(work, start, options, progress=run.report)
    guided = [what for what, given in (("labels", work.labels), ("landmarks", work.points)) if given is not None]
    field, improved = result.field, result.improved
    if improved:
        field, improved = checks.refinement(work, start, field, similarity)
    else:
        run.warnings.append("The refinement did not make the images more similar; its start was kept.")
    for what in guided:
        run.warnings.append(f"The {what} guided the refinement, so that their agreement is no independent measure.")
    return field, {
        "preset": settings.refinement,
        "similarity": similarity,
        "reason": reason,
        "value": {
            "before": result.similarity_before,
            "after": result.similarity_after if improved else result.similarity_before,
        },
        "steps": list(result.steps),
        "detailed": result.detailed,
        "improved": improved,
        "guided_by": guided,
    }


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def intensity_scale(image: Image, card: models.ModelCard) -> tuple[float, float]:
    """(offset, scale) such that (value - offset) * scale is what the network expects, before clipping to [0, 1]."""
    facts = card.normalization
    if facts["method"] == "white-matter":
        return 0.0, facts["target"] / white_matter_level(image)
    low, high = _intensity_window(image, facts["low"], facts["high"])
    return low, 1.0 / (high - low)


def normalised(image: Image, scale: tuple[float, float]) -> np.ndarray:
    """float32 values in [0, 1]."""
    return np.clip((image.array - np.float32(scale[0])) * np.float32(scale[1]), 0.0, 1.0, dtype=np.float32)


def white_matter_level(image: Image) -> float:
    """The intensity of white matter in a skull-stripped T1 brain: the brightest clear peak of its histogram.

    Scale-free: an image multiplied by a factor gives the level multiplied by it. Raises InputError when the image
    has no positive voxels.
    """
    values = image.array[image.array > 0].astype(np.float64)
    if values.size == 0:
        raise InputError(f"The {image.name} has no positive voxels; this model needs a brain on a dark background.")
    top = np.percentile(values, 99.9)
    counts, edges = np.histogram(values, bins=200, range=(0.0, top))
    counts = np.convolve(counts, _smoothing_kernel(4.0), mode="same")
    # Below a quarter of the brightest tissue lies background and fluid.
    start = 50
    inner = counts[start:-1]
    peaks = [n for n in range(1, len(inner) - 1) if inner[n] >= inner[n - 1] and inner[n] > inner[n + 1]]
    peaks = [n for n in peaks if inner[n] >= 0.25 * inner.max()] or [int(inner.argmax())]
    best = start + peaks[-1]
    return float(0.5 * (edges[best] + edges[best + 1]))


def _smoothing_kernel(sigma: float) -> np.ndarray:
    line = np.arange(-3 * int(sigma), 3 * int(sigma) + 1)
    kernel = np.exp(-0.5 * (line / sigma) ** 2)
    return kernel / kernel.sum()


def run_network(network: models.Model, moving: np.ndarray, fixed: np.ndarray, grid: Grid) -> DisplacementField:
    """One pass: two arrays in [0, 1] on `grid` to the displacement field on the network's flow grid."""
    import torch

    from . import sampling

    card = network.card
    flat = grid.flat_axis
    tensors = [torch.from_numpy(np.ascontiguousarray(a))[None, None] for a in (moving, fixed)]
    if flat is not None:
        tensors = [tensor.squeeze(2 + flat) for tensor in tensors]
    flow = network.flow(*(tensor.to(network.device) for tensor in tensors))
    if card.output == "velocity":
        # Apple's GPU lacks 3D interpolation.
        flow = sampling.integrate(flow.cpu() if network.device == "mps" else flow, card.integration_steps)
    array = flow[0].float().cpu().numpy() * np.float32(card.output_scale)
    shape = list(array.shape[1:])
    if flat is not None:
        shape.insert(flat, 1)
    return DisplacementField.from_voxels(array, flow_grid(grid, tuple(shape), card), step_grid=grid)


def flow_grid(grid: Grid, shape: tuple[int, ...], card: models.ModelCard) -> Grid:
    """Where the voxels of a flow of `shape` (K, J, I) lie, for a network that saw `grid`."""
    size, flow_size = grid.size, np.array(shape[::-1])
    step, start = np.ones(3), np.zeros(3)
    for axis in range(3):
        if size[axis] == flow_size[axis]:
            continue
        if card.flow_alignment == "corners":
            step[axis] = (size[axis] - 1) / max(flow_size[axis] - 1, 1)
        else:
            step[axis] = card.output_scale
            start[axis] = (card.output_scale - 1) / 2
    matrix = grid.ijk_to_ras.copy()
    matrix[:3, 3] = grid.to_ras(start)
    matrix[:3, :3] *= step
    return Grid(tuple(shape), matrix)


# --- measurement ---------------------------------------------------------------------------------------------------


def _similarities(fixed, moving, warped, mask, linear, run) -> dict[str, dict[str, float]]:
    """Similarity over the measured region, on every second voxel of large images."""
    stride = max(1, round((fixed.grid.voxel_count / 1_000_000) ** (1 / 3)))
    every = tuple(slice(None, None, stride if n > 1 else 1) for n in fixed.grid.shape)
    coarse = fixed.grid.ijk_to_ras.copy()
    coarse[:3, :3] *= [stride if n > 1 else 1 for n in fixed.grid.size]
    grid = Grid(fixed.array[every].shape, coarse)
    # The surroundings belong to it: what is bright and even inside has its contrast at the edge.
    region = _dilated(mask[every], 2)
    if not region.any():
        region = np.ones_like(region)
    result = {}
    for name, matrix in (("before", linear.start), ("aligned", linear.matrix)):
        image = warp_image(moving, grid, None, matrix).array
        result[name] = evaluation.similarity(fixed.array[every], image, region)
        run.report(0.5)
    result["after"] = evaluation.similarity(fixed.array[every], warped.array[every], region)
    return result


def _dilated(mask: np.ndarray, voxels: int) -> np.ndarray:
    """A mask (K, J, I) grown by a box of `voxels` on every side."""
    for axis in range(3):
        grown = mask.copy()
        for shift in range(1, min(voxels, mask.shape[axis] - 1) + 1):
            ahead = [slice(None)] * 3
            behind = [slice(None)] * 3
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(ahead)] |= mask[tuple(behind)]
            grown[tuple(behind)] |= mask[tuple(ahead)]
        mask = grown
    return mask


def _overlaps(fixed_labels, carried, run) -> dict:
    """Dice and 95 % surface distance per label, before, aligned and after, of the labels carried over."""
    if fixed_labels is None:
        return {}
    dice, distance = {}, {}
    known: dict[int, dict] = {}
    for number, (name, labels) in enumerate(carried.items()):
        run.report(0.5 + number / 6)
        dice[name] = {"mean": labels.mean, "labels": labels.dice}
        if id(labels) not in known:
            surfaces = evaluation.surface_distance95(fixed_labels, labels.image, list(labels.dice))
            known[id(labels)] = {"mean": _nan_mean(surfaces.values()), "labels": surfaces}
        distance[name] = known[id(labels)]
    return {"dice": dice, "hd95_mm": distance}


def _nan_mean(values) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _landmark_errors(fixed_points, moving_points, linear, deformation) -> dict | None:
    """Landmark errors in mm before, aligned and after."""
    if fixed_points is None:
        return None
    points = np.asarray(fixed_points, dtype=np.float64)
    result = {}
    moved = {"before": (points, linear.start), "aligned": (points, linear.matrix)}
    moved["after"] = (deformation.transform_points(points), linear.matrix)
    for name, (start, matrix) in moved.items():
        errors = evaluation.target_registration_error(start @ matrix[:3, :3].T + matrix[:3, 3], moving_points)
        result[name] = {"mean": float(errors.mean()), "max": float(errors.max()), "each": errors.tolist()}
    return result


def _carried(fixed: Grid, mask: np.ndarray, matrix: np.ndarray, deformation) -> np.ndarray:
    """T(x), (N, 3) in RAS mm, of some 20,000 voxels x of the measured region."""
    chosen = np.flatnonzero(mask)
    chosen = chosen[:: max(1, chosen.size // 20_000)]
    kji = np.stack(np.unravel_index(chosen, fixed.shape), -1)
    points = deformation.transform_points(fixed.to_ras(kji[:, ::-1]))
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _covered_percent(fixed: Grid, moving: Grid, mask: np.ndarray, linear: _Linear, deformation) -> float:
    """How much of the measured region T carries into the moving image, in percent."""
    return 100.0 * float(np.mean(moving.contains(_carried(fixed, mask, linear.matrix, deformation))))


def inverse_over(moving: Grid, deformation: DisplacementField, linear: np.ndarray) -> DisplacementField:
    """The displacement of T^-1, from moving to fixed positions, over the moving grid.

    T(x) = A (x + u(x)), A = linear (4, 4) in RAS mm. Its voxels are half as large as the field's, since it bends more
    between them, but no smaller than the moving image's. Raises FieldError where the field folds.
    """
    own, seen = (float(np.min(grid.spacing[grid.size > 1])) for grid in (deformation.grid, moving))
    grid = working_grid(moving, max(own / 2, min(own, seen)))
    return deformation.inverse(grid_over(grid, moving), linear)


def _inverse(fixed: Grid, moving: Grid, mask, deformation, matrix, warnings):
    """The inverse transform and what the report says of it; None twice, and a warning, where there is none."""
    try:
        backward = inverse_over(moving, deformation, matrix)
    except FieldError as error:
        warnings.append(f"There is no inverse transform. {error}")
        return None, None
    goal = _carried(fixed, mask, matrix, deformation)
    goal = goal[moving.contains(goal)]
    again = deformation.transform_points(backward.transform_points(goal)) @ matrix[:3, :3].T + matrix[:3, 3]
    missed = np.linalg.norm(again - goal, axis=1)
    largest, mean = (float(f(missed)) if missed.size else float("nan") for f in (np.max, np.mean))
    return backward, {"tolerance_mm": INVERSE_TOLERANCE_MM, "mean_mm": mean, "max_mm": largest}


def _worst_places(determinant: Image, mask: np.ndarray, fixed_points, errors: dict | None) -> dict[str, list[float]]:
    """Where to look first, in fixed RAS mm: the smallest determinant of the region, the largest landmark error."""
    lowest = int(np.where(mask, determinant.array, np.inf).argmin())
    kji = np.unravel_index(lowest, determinant.grid.shape)
    result = {"determinant": determinant.grid.to_ras(np.array(kji[::-1])).tolist()}
    if errors is not None:
        worst = int(np.argmax(errors["after"]["each"]))
        result["landmark"] = np.asarray(fixed_points, np.float64)[worst].tolist()
    return result


def _warn_of_inputs(warnings: list[str], covered: float, errors: dict | None) -> None:
    """Warnings from coverage, and from landmarks where they are given."""
    if covered < SMALLEST_COVERAGE:
        warnings.append(
            f"Only {covered:.0f} % of the fixed anatomy lies within the moving image; there is nothing to compare in "
            "the rest. Check the alignment, or give a mask of the region that both images show."
        )
    if errors and errors["after"]["mean"] > errors["before"]["mean"]:
        warnings.append(
            f"The landmarks are further apart than before (mean {errors['before']['mean']:.2f} mm before, "
            f"{errors['after']['mean']:.2f} mm after). Do not use this result, or check that the landmarks of both "
            "images are in the same order."
        )


def _warn(warnings: list[str], folding: dict, similar: dict, checks: dict) -> None:
    inside = folding["inside"]
    if inside["count"] or inside["any_corner_count"]:
        warnings.append(
            f"The deformation folds in {inside['count']} voxels ({inside['any_corner_count']} by the stricter count). "
            "Look at the Jacobian map, and do not trust the result there."
        )
    # Mutual information, since a correlation means little between two modalities.
    if similar["aligned"]["mi"] < similar["before"]["mi"]:
        warnings.append(
            "The linear alignment made the images less similar than they lay. Choose another alignment (rigid, "
            "centers), or bring the images together by hand and choose alignment 'none'."
        )
    undone = any(not check["kept"] for check in checks.values())
    if similar["after"]["mi"] <= similar["aligned"]["mi"] and not undone:
        warnings.append(
            "The images are no more similar after the deformation than after the linear alignment. "
            "Check the alignment, and whether the model suits these images."
        )
