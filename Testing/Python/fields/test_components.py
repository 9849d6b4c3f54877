"""Vectors from one frame to another."""

import numpy as np
import pytest

from VoxelMorphRegistrationLib.fields import components
from VoxelMorphRegistrationLib.fields.components import turned

TURN = np.float32([[0.6, -0.8, 0.1], [0.8, 0.6, 0.0], [0.2, 0.1, 1.5]])
SWAP = np.float32([[0.0, 0.0, -2.0], [1.5, 0.0, 0.0], [0.0, 0.7, 0.0]])


@pytest.mark.parametrize("matrix", [TURN, SWAP], ids=["oblique", "along the axes"])
@pytest.mark.parametrize("apart", [False, True], ids=["side by side", "components apart"])
def test_each_vector_is_turned_whatever_the_slabs_and_the_order_in_memory(matrix, apart, monkeypatch):
    monkeypatch.setattr(components, "SLAB_VOXELS", 100)
    flow = np.random.default_rng(0).normal(size=(3, 7, 6, 5)).astype(np.float32)
    vectors = np.moveaxis(flow if apart else np.ascontiguousarray(flow), 0, -1)
    vectors = vectors if apart else np.ascontiguousarray(vectors)
    out = np.moveaxis(np.empty_like(flow), 0, -1) if apart else np.empty_like(vectors)
    assert turned(vectors, matrix, out) is out
    np.testing.assert_allclose(out, np.einsum("nm,kjim->kjin", matrix, vectors), rtol=1e-5, atol=1e-6)
