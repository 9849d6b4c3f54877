"""Linear maps as matrices."""

from __future__ import annotations

import math

import numpy as np


def about(linear: np.ndarray, center: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(4, 4) of x -> linear (x - center) + image."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = image - linear @ center
    return matrix


def shift(vector: np.ndarray) -> np.ndarray:
    return about(np.eye(3), np.zeros(3), vector)


def rotation_matrices(vectors: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) (Rodrigues)."""
    vectors = np.asarray(vectors, dtype=np.float64)
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vectors.shape, 3)
    # np.sinc(t / pi) = sin(t) / t, defined at 0.
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (cross @ cross)


def angle(rotation: np.ndarray) -> float:
    """By how much a matrix (3, 3) turns, in radians."""
    return math.acos(min(1.0, max(-1.0, (float(np.trace(rotation)) - 1) / 2)))
