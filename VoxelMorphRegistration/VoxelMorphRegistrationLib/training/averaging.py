"""A running mean of a network's weights: what a step with a constant rate stirs up is averaged out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RunningMean:
    """The mean of the weights of `network` over about the last `steps` steps; over all of them at first.

    Exponential (Polyak and Juditsky 1992 for the plain mean): mean += (weights - mean) / min(n, steps) after step n.
    """

    def __init__(self, network: torch.nn.Module, steps: int) -> None:
        """steps: 0 keeps no mean."""
        self.network, self.steps = network, steps
        self.count = 0
        self.weights: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self) -> None:
        """Take the weights as they are now into the mean."""
        if not self.steps:
            return
        self.count += 1
        share = 1.0 / min(self.count, self.steps)
        for name, value in self.network.state_dict().items():
            if self.count == 1:
                self.weights[name] = value.clone()
            else:
                self.weights[name].lerp_(value, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network with the mean for its weights, which come back afterwards. Without a mean, as it is."""
        if not self.count:
            yield
            return
        kept = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.network.load_state_dict(kept)

    def state(self) -> dict:
        """What `load` needs to go on, tensors and numbers."""
        return {"count": self.count, "weights": self.weights}

    def load(self, state: dict | None) -> None:
        """Go on from `state`, of a checkpoint; a run without a mean, or without one up to now, begins a new one."""
        if self.steps and state and state["count"]:
            self.count = state["count"]
            own = self.network.state_dict()
            self.weights = {name: value.to(own[name]).clone() for name, value in state["weights"].items()}
