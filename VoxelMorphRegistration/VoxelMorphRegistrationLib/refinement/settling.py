"""A smooth motion found to its end: what the images say of it in regions, where single voxels say little.

A step along the slope of the correlation is as long everywhere as the longest may be, and small windows do not see a
shift where brightness rises evenly. So steps end long before a layer that looks alike along itself, such as a scalp,
has slid to where it belongs: in a head under a known warp the error was 1.8 mm within 5 mm of the outline, nearly all
of it along the outline, and 0.2 mm inside. Here each round solves for the whole displacement at once, on blocks of the
finest voxels: what the images say of each block, by the normal equations of the correlation in large windows
(Gauss-Newton), and that second derivatives are small (the bending energy of Rueckert et al., IEEE TMI 1999). The
bending counts less from round to round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..images.boxes import box_sum, box_sum_rows, gradient_box, pooled
from ..images.slabs import each, rows_of, within
from .terms import FLAT, LocalCorrelation, spread_box

if TYPE_CHECKING:
    from .problem import Problem

# Finest voxels a side of a block, and of the pieces that windows consist of; their radius in pieces. In the upper front
# quarter of a head under three known warps, where the error was 1.21, 1.14 and 0.96 mm, windows of a radius of 4 voxels
# left 0.51, 0.65 and 0.56 mm; of 6, 0.54 and 0.42 (two of them); of 8, 0.30, 0.40 and 0.33; and of 12 no less. Blocks
# of 4 voxels left 0.80 instead of 0.51 (one of them).
BLOCK, PIECE, RADIUS = 8, 2, 4
# Weights of the bending, one for each round: set on the same three.
BENDING = (10.0, 3.0, 1.0, 0.3, 0.1)
# The solver: coarse to fine on pooled blocks, so many rounds of conjugate gradients on each.
POOLS, ROUNDS = (8, 4, 2, 1), 30
# Most that a window's correlation says of a voxel: no image is less noisy than this.
MOST = 0.995
_SLAB_VOXELS = 250_000


def can_settle(problem: Problem) -> bool:
    """Whether it compares two volumes as fine as the images by their local correlation, and nothing else."""
    only = len(problem.parts) == 1 and problem.flat is None
    return only and problem.spacing == 1 and isinstance(problem.images.term, LocalCorrelation)


def settled(problem: Problem, flow: torch.Tensor, tell: Callable[[], None] = lambda: None) -> torch.Tensor:
    """A better `flow` (1, 3, *S), in voxels of the field, or the same one where the images are no more alike with it.

    problem: one that can settle. tell: called before each round, and may raise.
    """
    images = problem.images
    # Blocks in voxels of the field.
    side = BLOCK // images.ratio
    before = images.similarity(flow)
    found = flow
    for bending in BENDING:
        tell()
        matrix, force = normal_equations(images, found)
        # In voxels of a block.
        here = _means(found[0], side) / side
        goal = _solved(matrix, (matrix * here[None]).sum(1) + force, bending)
        found = found + side * _spread(goal - here, side, found.shape[2:])[None]
    return found if bool(images.similarity(found) > before) else flow


def normal_equations(images, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, 3, *B) and (3, *B) of the blocks: how sharply the images tell a displacement, and which way they pull.

    In voxels of a block. Noise has slopes in each image that the other one does not share; so along each direction only
    that part counts in which the slopes of both agree.
    """
    warped, known = images.warped(flow)
    fixed, moving = images.term.fixed[0], warped[0]
    weight = images.weight if known is None else images.weight * known
    sums = _sums(fixed, moving, weight)
    shape = [-(-n // BLOCK) for n in fixed.shape]
    own, shared, force = (torch.empty((n, *shape), device=fixed.device) for n in (9, 9, 3))
    others = tuple(slice(0, n) for n in fixed.shape[1:])
    pairs = [(m, n) for m in range(3) for n in range(3)]

    def of_rows(rows: slice) -> None:
        box = (rows, *others)
        once, twice, constant = spread_box(sums, box, PIECE) * weight[rows]
        left = fixed[rows] * once - moving[rows] * twice - constant
        slope = [part * BLOCK for part in gradient_box(moving, box)]
        slope_fixed = [part * BLOCK for part in gradient_box(fixed, box)]
        blocks = slice(rows.start // BLOCK, -(-rows.stop // BLOCK))
        for number, (m, n) in enumerate(pairs):
            if n >= m:
                both = slope[m] * slope_fixed[n] + slope_fixed[m] * slope[n]
                found = torch.stack([slope[m] * slope[n] * twice, both.mul_(once).mul_(0.5)])
                own_part, shared_part = pooled(found, BLOCK)
                for place in {number, 3 * n + m}:
                    own[place, blocks], shared[place, blocks] = own_part, shared_part
        force[:, blocks] = pooled(torch.stack([part * left for part in slope]), BLOCK)

    each(of_rows, rows_of(fixed.shape, fixed.device, BLOCK, _SLAB_VOXELS))
    own, shared = (values.movedim(0, -1).unflatten(-1, (3, 3)) for values in (own, shared))
    level, axes = torch.linalg.eigh(shared)
    along = (axes.mT @ own @ axes).diagonal(dim1=-2, dim2=-1)
    agree = (level / along.clamp_min(1e-12)).clamp(0, 1)
    matrix = axes @ torch.diag_embed(along * agree) @ axes.mT
    pull = axes @ (agree[..., None] * (axes.mT @ force.movedim(0, -1)[..., None]))
    return matrix.movedim((-2, -1), (0, 1)).contiguous(), pull[..., 0].movedim(-1, 0).contiguous()


def _sums(fixed: torch.Tensor, moving: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(3, *S / PIECE): what all windows around a piece give to its voxels: in front of the fixed values, of the moving
    ones, and of one.

    In a window, r^2 = c^2 / (v_f v_m) of the fixed variance v_f is explained, and the rest is noise: a squared
    difference weighs r^2 / (1 - r^2) / v_f.
    """
    shape = tuple(-(-n // PIECE) for n in fixed.shape)
    moments = torch.empty((6, *shape), device=fixed.device)
    out = torch.empty((3, *shape), device=fixed.device)
    size = (2 * RADIUS + 1) ** 3

    def multiply(rows: slice) -> None:
        a, b, number = fixed[rows], moving[rows], counts[rows]
        pieces = slice(rows.start // PIECE, -(-rows.stop // PIECE))
        for n, one in enumerate((number, a * number, b * number, a * a * number, b * b * number, a * b * number)):
            moments[n, pieces] = pooled(one[None].clone(), PIECE)[0]

    def weigh(rows: slice) -> None:
        number, *sums = box_sum_rows(moments, rows, RADIUS)
        mean_f, mean_m, variance_f, variance_m, both = (one / number.clamp_min(1.0) for one in sums)
        variance_f = (variance_f - mean_f * mean_f).clamp_min_(0).add_(FLAT)
        variance_m = (variance_m - mean_m * mean_m).clamp_min_(0).add_(FLAT)
        both = both - mean_f * mean_m
        explained = (both.clamp_min(0).square() / (variance_f * variance_m)).clamp_(0, MOST)
        # The fixed values are as `scale` times the moving ones there.
        scale = both / variance_m
        weight = explained / (1.0 - explained) / variance_f * moments[0, rows] * scale / size
        weight[number < size / 2] = 0.0
        out[0, rows], out[1, rows], out[2, rows] = weight, weight * scale, weight * (mean_f - scale * mean_m)

    each(multiply, rows_of(fixed.shape, fixed.device, PIECE, _SLAB_VOXELS))
    each(weigh, rows_of(shape, fixed.device, 1, _SLAB_VOXELS))
    return box_sum(out, RADIUS)


def _solved(matrix: torch.Tensor, right: torch.Tensor, bending: float) -> torch.Tensor:
    """v (3, *B) of (matrix + bending R) v = right, R v being the slope of the bending energy of v."""
    found: torch.Tensor | None = None
    shape = matrix.shape[2:]
    for pool in POOLS:
        if pool > 1 and min(shape) < 3 * pool:
            continue
        coarse = pooled(matrix.flatten(0, 1).clone(), pool).unflatten(0, (3, 3))
        wanted = pooled(right.clone(), pool)
        if found is None:
            start = torch.zeros_like(wanted)
        else:
            start = F.interpolate(found[None], size=wanted.shape[1:], mode="trilinear")[0]
        found = _conjugate_gradients(coarse, wanted, bending / pool**4, start)
    assert found is not None
    return found


def _conjugate_gradients(matrix: torch.Tensor, right: torch.Tensor, bending: float, start: torch.Tensor):
    """_solved on one grid, from `start`."""
    own = matrix.movedim((0, 1), (-2, -1)).contiguous()
    # 42: what a voxel's own displacement counts in the bending away from the border.
    own = own + (42 * bending + 1e-9) * torch.eye(3, device=matrix.device)
    inverse = torch.linalg.inv(own).movedim((-2, -1), (0, 1)).contiguous()

    def applied(v: torch.Tensor) -> torch.Tensor:
        return (matrix * v[None]).sum(1) + bending * bent(v)

    found = start.clone()
    left = right - applied(found)
    guess = (inverse * left[None]).sum(1)
    direction, size = guess.clone(), _product(left, guess)
    for _ in range(ROUNDS):
        image = applied(direction)
        length = size / _product(direction, image).clamp_min(1e-30)
        found += length * direction
        left -= length * image
        guess = (inverse * left[None]).sum(1)
        previous, size = size, _product(left, guess)
        direction = guess + size / previous.clamp_min(1e-30) * direction
    return found


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The sum of a * b, the same on any number of threads: these share the rows, not the sum of one."""
    return (a * b).sum(-1).sum()


def bent(v: torch.Tensor) -> torch.Tensor:
    """The slope (C, *B), but for a factor of two, of the sum of squares of all second differences of v."""
    out = torch.zeros_like(v)
    axes = range(1, v.dim())
    for axis in axes:
        size = v.shape[axis] - 2
        if size > 0:
            second = v.narrow(axis, 2, size) - 2 * v.narrow(axis, 1, size) + v.narrow(axis, 0, size)
            for place, factor in ((0, 1.0), (1, -2.0), (2, 1.0)):
                out.narrow(axis, place, size).add_(second, alpha=factor)
    for axis in axes:
        for other in range(axis + 1, v.dim()):
            # Twice: of both orders.
            mixed = 2 * v.diff(dim=axis).diff(dim=other)
            out += _undone(_undone(mixed, other), axis)
    return out


def _undone(difference: torch.Tensor, axis: int) -> torch.Tensor:
    """The transpose of torch.diff."""
    return -F.pad(difference.movedim(axis, -1), (1, 1)).diff(dim=-1).movedim(-1, axis)


def _means(volumes: torch.Tensor, side: int) -> torch.Tensor:
    """(C, *S) over blocks, those at the end of what there is of them."""
    ones = torch.ones_like(volumes[:1])
    return pooled(volumes.clone(), side) / pooled(ones, side)


def _spread(blocks: torch.Tensor, side: int, shape: torch.Size) -> torch.Tensor:
    """(C, *B) at the voxels (*S) of the blocks, linear between their middles."""
    if side > 1:
        blocks = F.interpolate(blocks[None], scale_factor=side, mode="trilinear")[0]
    return within(blocks, tuple(slice(0, n) for n in shape))
