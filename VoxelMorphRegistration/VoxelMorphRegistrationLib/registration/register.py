"""The pipeline, top to bottom: align, bring onto the working grid, run the network, compose, warp, measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..errors import SettingsError
from ..fields.displacement import DisplacementField
from ..fields.warp import warp_image, warp_labels
from ..images.image import Image
from ..networks.model import Model
from . import heap
from .channels import split, with_channels
from .choice import picked, resolved
from .device import choose_device
from .doubt import error_map_of, summary
from .inputs import accepted
from .inverting import inverse_of
from .linear import linear_part
from .measures import Similarities, measured
from .passes import deform, facts_of
from .progress import ProgressCallback, Run
from .refining import checks_of, guided, pair_of, refine_pair, show_preview
from .report import Report
from .result import Preview, Registration
from .settings import Settings
from .start import Initial, start_field
from .starts import starts_of
from .warnings import warn
from .working import network_and_grids


@heap.kept()
def register(
    fixed: Image | Sequence[Image],
    moving: Image | Sequence[Image],
    model: Model | str | Path | None = None,
    settings: Settings | None = None,
    progress: ProgressCallback | None = None,
    *,
    preview: Callable[[Preview], object] | None = None,
    fixed_labels: Image | None = None,
    moving_labels: Image | None = None,
    fixed_points: np.ndarray | None = None,
    moving_points: np.ndarray | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    initial_transform: Initial | None = None,
    inverse: bool = False,
    trust_model: bool = False,
) -> Registration:
    """Deform `moving` onto `fixed`.

    Of several images of each side, which lie as the first ones do, those are aligned, seen by a network, and carried;
    the refinement compares all, each fixed one with the moving one of its place (settings.channel_weights).

    model: a loaded model, a name or a file; settings.model when None. progress(stage, fraction in 0..1) is called
    throughout; returning False or raising Cancelled cancels, returning `progress.STOP_HERE` keeps what there is: a
    finished, checked result whose report says where it was stopped. preview(Preview) is called while the result
    improves, first after a few seconds. labels: maps on the grids of their images, for the
    report (and the warped labels); points: corresponding landmarks (N, 3) in RAS mm, for the report. Both guide the
    refinement where the settings weight them. fixed_mask: where the fixed image counts, for alignment and
    measurement. moving_mask: where the moving image counts in the refinement.
    initial_transform: fixed to moving in RAS mm: (4, 4), where the alignment starts, or the displacement S(x) - x of
    any transform S, which stands in for the alignment and from which network and refinement go on.
    inverse: whether to make the inverse transform as well; a warning says so where there is none. trust_model: run the
    program of a model file even where it does more than networks need; no setting, since settings come with files of
    others. Raises errors of this library with plain sentences.
    """
    if isinstance(model, Settings):
        raise SettingsError("The settings are given in the place of the model. Name them: settings=Settings(...).")
    settings = settings or Settings()
    if isinstance(model, (str, Path)):
        # One road for a name, wherever it is given: the settings check it, and the report records it.
        settings, model = settings.replace(model=str(model)), None
    run = Run(progress, preview)
    asked, settings = settings, resolved(settings, model)
    fixed, moving, further = split(fixed, moving)
    names = {"fixed": fixed.name, "moving": moving.name}
    with run.stage("checking"):
        inputs = accepted(
            fixed,
            moving,
            settings,
            run.warnings,
            fixed_labels=fixed_labels,
            moving_labels=moving_labels,
            fixed_points=fixed_points,
            moving_points=moving_points,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            initial_transform=initial_transform,
            further=further,
        )
    with run.stage("loading the model"):
        network, grids = network_and_grids(model, inputs, settings, run.warnings, trust_model)
    with run.ahead:
        with run.stage("aligning"):
            similarities = Similarities(inputs, run.ahead)
            linear = linear_part(inputs, settings, run, similarities)
            checks = checks_of(inputs, settings)
            linear = replace(linear, matrix=checks.alignment(linear.start, linear.matrix))
            if not np.array_equal(linear.matrix, linear.start):
                similarities.begin("aligned", linear.matrix)
        pair = pair_of(inputs, linear.matrix)
        start = start_field(inputs.initial_transform, linear.matrix, inputs.fixed.grid)
        if start is not None:
            checks.started(linear.matrix, start)
        picking = model is None and settings.model == "auto"
        if picking and not run.cut_short():
            with run.stage("choosing the model"):
                model, reason = picked(inputs, linear.matrix, checks.judge(pair), settings, run, start)
                network, grids = network_and_grids(model, inputs, settings, run.warnings)
        deformation, refined = start, None
        facts: dict = {"device": choose_device(settings.device)}
        if network is not None and not run.cut_short():
            with run.stage("registering"):
                deformation, network, folds, made = deform(
                    inputs, linear.matrix, grids, network, settings.precision, run, start
                )
                deformation = checks.network(pair, deformation.covering(inputs.fixed.grid), start)
                facts = facts_of(network, grids, folds, made)
                if picking:
                    facts["model"]["reason"] = reason
            if settings.refinement != "off":
                show_preview(pair, deformation, settings.background, run)
        largest = max(inputs.fixed.array.size, inputs.moving.array.size)
        if settings.refinement != "off" and not run.cut_short():
            with run.stage("refining"):
                heap.give_back(largest)
                work = with_channels(guided(pair, inputs, settings), inputs, settings, deformation)
                device = facts["device"]
                further_starts = starts_of(asked, settings, inputs, work, deformation)
                deformation, refined = refine_pair(
                    work, deformation, device, settings, run, checks, linear.evidence, further_starts
                )
        if deformation is None:
            deformation = DisplacementField.identity(inputs.fixed.grid)
        # Readers of the written field must find it linear up to the outermost fixed voxels.
        deformation = deformation.padded()
        with run.stage("warping"):
            heap.give_back(largest)
            warped = warp_image(inputs.moving, inputs.fixed.grid, deformation, linear.matrix, settings.background)
            run.report(0.5)
            warped_labels = checks.warped_labels
            if warped_labels is None and moving_labels is not None:
                mode = settings.label_interpolation
                warped_labels = warp_labels(moving_labels, inputs.fixed.grid, deformation, linear.matrix, mode)
        doubt = None
        if settings.expected_error != "off" and not run.cut_short():
            with run.stage("estimating the error"):
                compared = refined["similarity"] if refined else None
                doubt = error_map_of(inputs, pair, deformation, compared, facts["device"], settings, run)
        backward = accuracy = None
        if inverse:
            with run.stage("inverting"):
                backward, accuracy = inverse_of(inputs, deformation, linear.matrix, run.warnings)
        with run.stage("measuring"):
            heap.give_back(largest)
            found = measured(inputs, linear, deformation, similarities, warped_labels, checks.carried, settings, run)
        told: dict = {}
        if doubt is not None:
            expected, least_certain = summary(doubt, inputs.region, inputs.fixed_labels or warped_labels)
            told["expected_error"] = expected
            found.report["worst_ras"]["expected_error"] = least_certain
        warn(run.warnings, found.report, found.gains, checks.found, linear.evidence)
        report = Report(
            linear=linear.matrix.tolist(),
            seconds=run.seconds,
            refinement=refined,
            checks=checks.found,
            settings=asdict(asked),
            inputs=names,
            warnings=run.warnings,
            inverse=accuracy,
            stopped_at=run.stopped_at,
            **told,
            **facts,
            **found.report,
        )
        run.finish()
        return Registration(deformation, linear.matrix, warped, found.jacobian, report, warped_labels, backward, doubt)
