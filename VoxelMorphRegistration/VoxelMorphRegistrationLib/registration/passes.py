"""The network's passes, composed to one field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..fields.displacement import DisplacementField
from ..fields.scattered import fitted
from ..fields.unfolding import without_folds
from ..fields.warp import warp_image
from ..images.grid import Grid
from ..images.image import Image, resample, smoothed
from ..networks.card import ModelCard
from ..networks.model import Model, output_shape
from .device import on_cpu
from .intensity import intensity_scale, normalised
from .memory import is_out_of_memory

if TYPE_CHECKING:
    from .inputs import Inputs
    from .progress import Run


def deform(
    inputs: Inputs,
    matrix: np.ndarray,
    grids: list[Grid],
    network: Model,
    precision: str,
    run: Run,
    start: DisplacementField | None = None,
) -> tuple[DisplacementField, Model, int, int]:
    """The composed field of the passes, one on each of `grids`, the network that made it (on the CPU, where the GPU
    ran out of memory), in how many voxels it folded (these are smoothed), and how many passes were made: fewer than
    there are grids where `run` was asked to stop. matrix: A (4, 4), fixed to moving RAS mm.
    start: the field that the first pass goes on from; its own folds stay.
    """
    fixed, moving = inputs.fixed, inputs.moving
    window = [intensity_scale(image, network.card) for image in (fixed, moving)]
    network = network.begun()
    total, target, fine, region, made = start, None, None, None, 0
    for number, grid in enumerate(grids):
        run.report(number / len(grids))
        if total is not None and run.cut_short():
            break
        if target is None or grid is not grids[number - 1]:
            target = normalised(resample(fixed, grid, None, window[0][0], smooth=True), window[0])
            fine = None
            if network.card.returns == "keypoints":
                region = region_on(inputs.region, fixed.grid, grid)
        if total is None:
            source = resample(moving, grid, matrix, window[1][0], smooth=True)
        else:
            if fine is None:
                fine = smoothed(moving, moving.grid.ras_to_ijk @ matrix @ grid.ijk_to_ras)
            source = warp_image(fine, grid, total, matrix, window[1][0])
        pair = normalised(source, window[1]), target
        try:
            step = run_network(network, *pair, grid, region)
        except RuntimeError as error:
            if network.device == "cpu" or not is_out_of_memory(error):
                raise
            network = on_cpu(network, precision, run.warnings).begun()
            step = run_network(network, *pair, grid, region)
        total = step if total is None else total.compose(step)
        made = number + 1
    assert total is not None, "no pass"
    folds = 0
    if start is None:
        total, folds = without_folds(total)
    return total, network, folds, made


def facts_of(network: Model, grids: list[Grid], folds: int, made: int) -> dict:
    """What the report says of the network that ran. folds: voxels in which it folded, smoothed since. made: passes, on
    the first ones of `grids`.
    """
    file = network.path.name if network.path else None
    name = {"name": network.card.name, "file": file, "precision": network.precision, "folds_smoothed": folds}
    return {"device": network.device, "model": name, "passes": made, "working_grid": grids[max(made, 1) - 1].to_json()}


def region_on(region: np.ndarray, own: Grid, grid: Grid) -> np.ndarray:
    """A part (K, J, I) of its own grid, float32, 1 where it is seen on another one."""
    seen = resample(Image(region.astype(np.float32), own), grid, smooth=True).array > 0.5
    return seen.astype(np.float32)


def run_network(
    network: Model, moving: np.ndarray, fixed: np.ndarray, grid: Grid, region: np.ndarray | None = None
) -> DisplacementField:
    """One pass: two arrays in [0, 1] on `grid` to the displacement field on the network's flow grid.

    region: where a network of keypoints may look for them, everywhere when None.
    """
    import torch

    from ..images import sampling

    card = network.card
    flat = grid.flat_axis
    arrays = [moving, fixed]
    if card.returns == "keypoints":
        arrays.append(np.ones_like(fixed) if region is None else region)
    tensors = [torch.from_numpy(np.ascontiguousarray(a))[None, None] for a in arrays]
    if flat is not None:
        tensors = [tensor.squeeze(2 + flat) for tensor in tensors]
    tensors = [tensor.to(network.device) for tensor in tensors]
    if card.returns == "keypoints":
        # Apple's GPU lacks float64.
        points = network.keypoints(*tensors).cpu()
        dims = card.dimension
        coarse = output_shape(card, tuple(tensors[0].shape[2:]))
        flow = fitted(points[:, :dims], points[:, dims : 2 * dims], points[:, -1], coarse)[None]
    else:
        flow = network.flow(*tensors)
    if card.output == "velocity":
        # Apple's GPU lacks 3D interpolation.
        flow = sampling.integrate(flow.cpu() if network.device == "mps" else flow, card.integration_steps)
    array = flow[0].float().cpu().numpy() * np.float32(card.output_scale)
    shape = list(array.shape[1:])
    if flat is not None:
        shape.insert(flat, 1)
    return DisplacementField.from_voxels(array, flow_grid(grid, tuple(shape), card), step_grid=grid)


def flow_grid(grid: Grid, shape: tuple[int, ...], card: ModelCard) -> Grid:
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
