"""Many pairs: each a job of its own that is done once, by processes here, by Dask, or by the jobs of a cluster.

A room between the commands and the rest: it gives pairs to `register`, and stands below panel and commands, which
both may use it. `run` is what scripts need.
"""

from __future__ import annotations

from .running import run

__all__ = ["run"]
