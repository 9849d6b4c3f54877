"""What every source of training pairs gives, and how pairs are counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

# Streams of seeds that never meet: a pair belongs to (seed, stream, number).
TRAINING_STREAM, VALIDATION_STREAM = 0, 1


@dataclass(frozen=True)
class TrainingPair:
    """A pair to learn from. fixed, moving: (1, 1, *S) in [0, 1] on one grid; the other parts may be None.

    fixed_labels, moving_labels: (1, L, *S/2) probabilities of structures. displacement: (1, d, *S/2), the truth in
    half-resolution voxels: fixed(x) shows what moving(x + u(x)) shows. visible: (1, 1, *S/2), where that truth counts.
    fixed_points, moving_points: (1, P, d) in voxels of the images, axis order as the tensor axes.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_labels: torch.Tensor | None = None
    moving_labels: torch.Tensor | None = None
    displacement: torch.Tensor | None = None
    visible: torch.Tensor | None = None
    fixed_points: torch.Tensor | None = None
    moving_points: torch.Tensor | None = None


class PairSource(Protocol):
    """Where pairs come from. `facts` describes the data for the card of a model trained on it."""

    def pair(self, stream: int, number: int, device: torch.device | str) -> TrainingPair:
        """The pair that belongs to these numbers, the same every time; stream 0 trains, 1 validates."""

    @property
    def facts(self) -> str: ...


@dataclass(frozen=True)
class StepSizes:
    """Grids of the steps: `largest`, or drawn axis by axis between `smallest` and it, multiples of `stride`.

    Validation always has the largest, so that its figures compare.
    """

    largest: tuple[int, ...]
    smallest: tuple[int, ...] = ()
    stride: int = 16

    def of(self, seed: int, stream: int, number: int) -> tuple[int, ...]:
        if not self.smallest or stream != TRAINING_STREAM:
            return self.largest
        draw = np.random.default_rng((seed, stream, number, 3)).integers
        pairs = zip(self.smallest, self.largest, strict=True)
        return tuple(self.stride * int(draw(low // self.stride, high // self.stride + 1)) for low, high in pairs)
