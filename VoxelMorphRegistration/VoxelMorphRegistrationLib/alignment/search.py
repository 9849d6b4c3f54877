"""The coarse search over rotations and shifts."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from .motion import rotation_matrices
from .reduced import mass_center

if TYPE_CHECKING:
    from .fit import Progress
    from .pair import Pair
    from .samples import Samples


# The coarse search: rotations on a lattice, shifts by this part of the field of view, the best refined.
ROTATION_STEP, ROTATION_LIMIT = math.radians(22.5), math.radians(51.0)
SHIFT_STEP = 0.2
# Part of the similarity that a start loses for each radian of rotation.
ROTATION_DOUBT = 0.15
REFINED_STARTS, FINAL_STARTS = 16, 3
SEARCH_ROUNDS = 12
# Of the search among large rotations, over all there are: how many (neighbours are about 25 degrees apart), from which
# angle on, and how many are refined.
TURNS, PLANE_TURNS, SMALLEST_TURN, REFINED_TURNS = 500, 24, math.radians(45.0), 12
# The root of x^4 = x + 4 that spreads the spirals most evenly.
_SPIRAL = 1.533751168755204288118041


def _starts(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (B, 3, 3) and the images (B, 3) of the fixed centre under every start to be tried.

    Every rotation of the lattice, about the fixed position (the images as they lie), the field's centre and the
    centre of mass, each onto its counterpart; and shifts from there for fields of view that overlap only partly.
    """
    free = (0, 1, 2) if pair.dimension == 3 else (2,)
    steps = np.arange(-2, 3) * ROTATION_STEP
    vectors = np.array(list(itertools.product(*(steps if a in free else [0.0] for a in range(3)))))
    vectors = vectors[np.linalg.norm(vectors, axis=1) <= ROTATION_LIMIT]
    center = pair.fixed_center
    pivots = _pivots(pair)
    low, high = (f(pair.fixed.grid.corners(), axis=0) for f in (np.min, np.max))
    offsets = [np.zeros(3)]
    for axis in range(pair.dimension):
        offsets += [sign * SHIFT_STEP * (high - low)[axis] * np.eye(3)[axis] for sign in (-1, 1)]
    rotations, images = [], []
    for rotation in rotation_matrices(vectors):
        for (pivot, target), offset in itertools.product(pivots, offsets):
            rotations.append(rotation)
            images.append(rotation @ (center - pivot) + target + offset)
    return np.array(rotations), np.array(images)


def _pivots(pair: Pair) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions in the fixed image that may belong onto ones in the moving image."""
    center = pair.fixed_center
    return [
        (center, center),
        (center, pair.moving_center),
        (mass_center(pair.fixed), mass_center(pair.moving)),
    ]


def _maps(rotations: np.ndarray, images: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(B, 4, 4) of x -> rotation (x - center) + image."""
    maps = np.tile(np.eye(4), (len(rotations), 1, 1))
    maps[:, :3, :3] = rotations
    maps[:, :3, 3] = images - rotations @ center
    return maps


def _ranked(samples: Samples, maps: np.ndarray, doubt: float) -> np.ndarray:
    """Similarity (B,), lowered by the part `doubt` for each radian of rotation: large ones need evidence."""
    cosine = (np.trace(maps[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    return samples.score(maps)[0] * (1 - doubt * np.arccos(np.clip(cosine, -1, 1)))


def near_start(pair: Pair) -> np.ndarray:
    """The most similar rigid start (4, 4) by a pattern search from the images as they lie, their centres, and their
    centres of mass: what is enough for most, at a tenth of the cost of `best_start`."""
    samples, center = pair.coarse_samples, pair.fixed_center
    images = np.array([center - pivot + target for pivot, target in _pivots(pair)])
    rotations = np.tile(np.eye(3), (len(images), 1, 1))
    scores = _ranked(samples, _maps(rotations, images, center), ROTATION_DOUBT)
    return _climbed(pair, samples, rotations, images, scores, ROTATION_DOUBT, lambda fraction: None)


def best_start(pair: Pair, report: Progress) -> np.ndarray:
    """The most similar rigid start as a (4, 4) map, by a lattice of starts and a pattern search from the best."""
    samples = pair.coarse_samples
    rotations, images = _starts(pair)
    scores = _ranked(samples, _maps(rotations, images, pair.fixed_center), ROTATION_DOUBT)
    report(0.2)
    best = np.argsort(-scores, kind="stable")[:REFINED_STARTS]
    # The images as they lie, and their centres, always stay in the race.
    best = np.unique(np.append(best, np.flatnonzero(np.trace(rotations, axis1=1, axis2=2) > 3 - 1e-9)))
    return _climbed(pair, samples, rotations[best], images[best], scores[best], ROTATION_DOUBT, report)


def turned_start(pair: Pair) -> np.ndarray:
    """The most similar rigid start among large rotations about any axis, beyond those of `best_start`: of images whose
    files have lost how the patient lay."""
    samples = pair.coarse_samples
    all_ways = _spread_rotations(TURNS) if pair.dimension == 3 else _plane_rotations(PLANE_TURNS)
    far = np.trace(all_ways, axis1=1, axis2=2) < 1 + 2 * math.cos(SMALLEST_TURN)
    center = pair.fixed_center
    pivots = (center, pair.moving_center), (mass_center(pair.fixed), mass_center(pair.moving))
    rotations = np.repeat(all_ways[far], len(pivots), axis=0)
    images = np.concatenate(
        [[rotation @ (center - pivot) + target for pivot, target in pivots] for rotation in all_ways[far]]
    )
    scores = _ranked(samples, _maps(rotations, images, center), 0.0)
    best = np.argsort(-scores, kind="stable")[:REFINED_TURNS]
    return _climbed(pair, samples, rotations[best], images[best], scores[best], 0.0, lambda fraction: None)


def _climbed(pair: Pair, samples: Samples, rotations, images, scores, doubt: float, report: Progress) -> np.ndarray:
    """The best map (4, 4) that a pattern search finds from some starts. doubt: as in `_ranked`."""
    center = pair.fixed_center
    steps = np.tile(_pattern(pair), (len(scores), 1, 1))
    for round_ in range(SEARCH_ROUNDS):
        rotations, images, scores, steps = _improved(samples, center, rotations, images, scores, steps, doubt)
        report(0.2 + 0.15 * (round_ + 1) / SEARCH_ROUNDS)
    maps = _maps(rotations, images, center)[np.argsort(-scores, kind="stable")[:FINAL_STARTS]]
    return maps[np.argmax(_ranked(pair.samples, maps, doubt))]


def _spread_rotations(count: int) -> np.ndarray:
    """Rotations (count, 3, 3) spread evenly over all there are (super-Fibonacci spirals, Alexa, CVPR 2022, eq. 4)."""
    steps = np.arange(count) + 0.5
    first, second = 2 * np.pi * steps / math.sqrt(2), 2 * np.pi * steps / _SPIRAL
    inner, outer = np.sqrt(steps / count), np.sqrt(1 - steps / count)
    x, y, z, w = inner * np.sin(first), inner * np.cos(first), outer * np.sin(second), outer * np.cos(second)
    vector = np.stack([x, y, z], 1)
    length = np.linalg.norm(vector, axis=1)
    return rotation_matrices(vector / length[:, None] * 2 * np.arctan2(length, w)[:, None])


def _plane_rotations(count: int) -> np.ndarray:
    """Rotations (count, 3, 3) about the third axis, evenly spread."""
    return rotation_matrices(np.outer(2 * np.pi * np.arange(count) / count, [0.0, 0.0, 1.0]))


def _pattern(pair: Pair) -> np.ndarray:
    """First steps of the pattern search, (P, 6): rotation vector in radians, then shift in mm."""
    radius = np.linalg.norm(np.ptp(pair.fixed.grid.corners(), axis=0)) / 4
    angle = ROTATION_STEP / 2
    free = (0, 1, 2, 3, 4, 5) if pair.dimension == 3 else (2, 3, 4)
    step = np.where(np.arange(6) < 3, angle, angle * radius)
    return np.array([sign * step[a] * np.eye(6)[a] for a in free for sign in (-1, 1)])


def _improved(samples: Samples, center, rotations, images, scores, steps, doubt: float):
    """One round for every candidate: the best of its neighbours, or smaller steps if none is better."""
    count, patterns = steps.shape[:2]
    tried_rotations = rotation_matrices(steps[..., :3]) @ rotations[:, None]
    tried_images = images[:, None] + steps[..., 3:]
    maps = _maps(tried_rotations.reshape(-1, 3, 3), tried_images.reshape(-1, 3), center)
    tried = _ranked(samples, maps, doubt).reshape(count, patterns)
    which = np.argmax(tried, axis=1)
    rows = np.arange(count)
    better = tried[rows, which] > scores
    rotations = np.where(better[:, None, None], tried_rotations[rows, which], rotations)
    images = np.where(better[:, None], tried_images[rows, which], images)
    scores = np.where(better, tried[rows, which], scores)
    return rotations, images, scores, np.where(better[:, None, None], steps, steps / 2)
