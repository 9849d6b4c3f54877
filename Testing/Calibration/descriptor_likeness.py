"""How the channels of the self-similarity descriptors belong together: the five numbers of descriptors.LIKENESS.

Of two images synthesised from one label map, a smooth warp apart, each place's descriptors are compared at the true
correspondence: W is the covariance of what is left, T that of the descriptors themselves. Along the directions of
T v = l W v a difference counts by 1 - 1 / (2 l), the part of it that is not noise; 2 W is the covariance of a
difference between places that have nothing to do with each other and of two that do (metric learning by covariances:
Koestinger et al., CVPR 2012). Both are made alike under the 48 turns and mirrorings of a cube: the root of what comes
out has one number for each way in which two edges of a cube may lie.

Run: python Testing/Calibration/descriptor_likeness.py LABEL_MAPS [--pairs 120]
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from VoxelMorphRegistrationLib.images.sampling import sample
from VoxelMorphRegistrationLib.refinement.descriptors import (
    descriptor_noise,
    edges_of_cube,
    lying,
    mind_ssc,
)
from VoxelMorphRegistrationLib.training.config import load_config, with_data
from VoxelMorphRegistrationLib.training.pairs import StepSizes

CONFIG = Path(__file__).parents[2] / "Resources" / "Models" / "brain-3d.toml"
# Of a pair in voxels; the descriptors are looked at on every second one, as at the finest level of a refinement.
SIZE, POOL, MARGIN = 64, 2, 3


def covariances(maps: Path, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """W and T (12, 12). maps: a folder of label maps. Raises InputError."""
    config = with_data(load_config(CONFIG), maps)
    source = config.label_maps()
    source.section = replace(source.section, same=1.0, spacing_mm=(0.9, 1.3), typical_share=0.3, spread=0.06)
    source.recipe = replace(config.shapes, related=0.2, noise=(0.0, 0.05), blur=(0.3, 1.3), gamma=0.3, bias=0.3)
    source.sizes = StepSizes((SIZE,) * 3, (48,) * 3, 16)
    left, whole, count = np.zeros((12, 12)), np.zeros((12, 12)), 0
    for number in range(pairs):
        pair = source.pair(0, 100_000 + number, "cpu")
        volumes = pair.fixed[0, 0], pair.moving[0, 0]
        noise = descriptor_noise(*volumes)
        fixed, moving = (mind_ssc(volume, POOL, noise) for volume in volumes)
        assert pair.displacement is not None and pair.visible is not None
        shape = torch.tensor(fixed.shape[1:])
        places = torch.stack(torch.meshgrid(*[torch.arange(n) for n in fixed.shape[1:]], indexing="ij")).flatten(1).T
        goal = places.float() + pair.displacement[0].flatten(1).T
        used = (pair.visible.flatten() > 0.5) & ((goal > MARGIN - 1) & (goal < shape - MARGIN)).all(1)
        here = fixed.flatten(1).T[used].double()
        there = sample(moving[None], goal[used].flip(-1).reshape(1, 1, 1, -1, 3))[0].flatten(1).T.double()
        left += ((here - there).T @ (here - there)).numpy()
        here -= here.mean(0)
        whole += (here.T @ here).numpy()
        count += len(here)
    return left / count, whole / count


def turned() -> list[list[int]]:
    """For each turn and mirroring of a cube, where every edge comes to lie."""
    edges = edges_of_cube(3)
    number = {frozenset(edge): n for n, edge in enumerate(edges)}
    return [
        [number[frozenset((axes[axis], sign * flips[axis]) for axis, sign in edge)] for edge in edges]
        for axes in itertools.permutations(range(3))
        for flips in itertools.product((1, -1), repeat=3)
    ]


def likeness(left: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    """descriptors.LIKENESS of W and T (12, 12)."""
    left, whole = (np.mean([matrix[np.ix_(turn, turn)] for turn in turned()], 0) for matrix in (left, whole))
    ratio, directions = scipy.linalg.eigh(whole, left)
    metric = directions @ np.diag(np.clip(1 - 1 / (2 * ratio), 0, None)) @ directions.T
    # The descriptors keep their size.
    metric *= np.trace(whole) / np.trace(metric @ whole)
    root = scipy.linalg.sqrtm(metric).real
    edges = edges_of_cube(3)
    return {lying(edges[0], other): round(float(value), 3) for other, value in zip(edges, root[0], strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", type=Path, help="a folder of label maps, as brain-3d.toml reads them")
    parser.add_argument("--pairs", type=int, default=120)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(likeness(*covariances(args.maps, args.pairs)))


if __name__ == "__main__":
    main()
