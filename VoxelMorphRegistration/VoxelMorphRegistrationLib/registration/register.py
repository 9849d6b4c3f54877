"""The pipeline, top to bottom: align, bring onto the working grid, run the network, compose, warp, measure."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..fields.folding import linear_determinant
from ..fields.warp import warp_image, warp_labels
from ..images.image import Image
from ..networks.model import Model
from . import evaluation, heap
from .device import choose_device, with_memory
from .inputs import check_extras, check_guides, check_pair, usable_image
from .intensity import measured_region
from .inverting import inverse_of
from .linear import linear_part
from .measures import covered_percent, landmark_errors, overlaps_of, similarities, worst_places
from .passes import deform
from .progress import Run
from .refining import checks_of, pair_of, refine_pair
from .report import Report
from .result import Registration
from .settings import Settings
from .warnings import warn, warn_of_inputs
from .working import loaded, pass_grids, surroundings

if TYPE_CHECKING:
    from .progress import ProgressCallback


@heap.kept()
def register(
    fixed: Image,
    moving: Image,
    model: Model | str | Path | None = None,
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
    run = Run(progress)
    inputs = {"fixed": fixed.name, "moving": moving.name}
    with run.stage("checking"):
        if fixed is moving or (fixed.array is moving.array and fixed.grid.same_as(moving.grid)):
            raise InputError("The fixed and the moving image are the same. Choose two different images.")
        fixed = usable_image(fixed, "fixed image", run.warnings)
        moving = usable_image(moving, "moving image", run.warnings)
        check_pair(fixed, moving)
        check_extras(fixed, moving, fixed_labels, moving_labels, fixed_points, moving_points, fixed_mask, moving_mask)
        check_guides(settings, fixed_labels, fixed_points)
        mask = measured_region(fixed, fixed_mask)
    with run.stage("loading the model"):
        network = None
        if model is not None or settings.model != "none":
            network = loaded(model, settings, fixed.grid.dimension)
            grids = pass_grids(surroundings(fixed.grid, mask), network.card, settings)
            largest = max(grids, key=lambda grid: grid.voxel_count)
            network = with_memory(network, largest, settings, run.warnings)
    with run.stage("aligning"):
        linear = linear_part(fixed, moving, settings, initial_transform, fixed_mask, run)
        checks = checks_of(fixed_labels, moving_labels, settings, run)
        linear = replace(linear, matrix=checks.alignment(linear.start, linear.matrix))
    pair = pair_of(fixed, moving, linear.matrix, mask, moving_mask)
    deformation, refined = None, None
    facts = {"device": choose_device(settings.device)}
    if network is not None:
        with run.stage("registering"):
            deformation, network = deform(fixed, moving, linear, grids, network, settings.precision, run)
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
            deformation, refined = refine_pair(
                replace(pair, **guides), deformation, facts["device"], settings, run, checks
            )
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
            backward, accuracy = inverse_of(fixed.grid, moving.grid, mask, deformation, linear.matrix, run.warnings)
    with run.stage("measuring"):
        determinant, inside = deformation.volume_change(mask, fixed.grid)
        folding = {
            "inside": inside.to_dict(),
            "volume": {"count": int(np.count_nonzero(determinant.array <= 0)), "voxels": fixed.grid.voxel_count},
        }
        run.report(0.3)
        similar = similarities(fixed, moving, warped, mask, linear, run)
        overlaps = overlaps_of(fixed_labels, checks.carried, run)
        errors = landmark_errors(fixed_points, moving_points, linear, deformation)
        factor = linear_determinant(linear.matrix, fixed.grid)
        segments = fixed_labels or warped_labels
        changes = None if segments is None else evaluation.volume_change(segments, determinant, factor)
        covered = covered_percent(fixed.grid, moving.grid, mask, linear, deformation)
        jacobian = determinant
        if settings.jacobian == "total":
            jacobian = determinant.with_array(determinant.array * np.float32(factor))
    warn(run.warnings, folding, similar, checks.found)
    warn_of_inputs(run.warnings, covered, errors)
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
        worst_ras=worst_places(determinant, mask, fixed_points, errors),
        **facts,
        **overlaps,
    )
    run.finish()
    return Registration(deformation, linear.matrix, warped, jacobian, report, warped_labels, backward)
