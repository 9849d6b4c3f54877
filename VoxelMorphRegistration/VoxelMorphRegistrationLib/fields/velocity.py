"""Stationary velocity fields."""

from __future__ import annotations

from .displacement import DisplacementField


def integrate_velocity(velocity: DisplacementField, steps: int = 7, backward: bool = False) -> DisplacementField:
    """The displacement exp(v) of a stationary velocity field in RAS mm, by scaling and squaring.

    The border is replicated. `backward` integrates -v: the inverse transform.
    """
    import torch

    from ..images import sampling

    flow = torch.from_numpy(velocity.to_voxels())[None]
    if backward:
        flow = -flow
    return DisplacementField.from_voxels(sampling.integrate(flow, steps)[0].numpy(), velocity.grid)
