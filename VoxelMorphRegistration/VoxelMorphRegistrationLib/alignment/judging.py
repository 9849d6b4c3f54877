"""What speaks for and against a map: its plausibility, and whether it stands out from chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .edges import Edges
    from .pair import Pair


SMALLEST_OVERLAP = 0.2
LARGEST_SCALE = 2.0
SMALLEST_EVIDENCE = 6.0
# Faults that say nothing against what a step started from: that was as good already.
NOT_MORE_SIMILAR, EDGES_AGREE_LESS = "it made the images no more similar", "the edges of the images agree less under it"
NO_GAIN = (NOT_MORE_SIMILAR, EDGES_AGREE_LESS)
# A scale or shear is taken only if it costs no more than this part of the agreement of edges.
EDGE_TOLERANCE = 0.005


def fault_of(pair: Pair, edges: Edges, found: np.ndarray | None, before: np.ndarray, kind: str) -> str | None:
    """What speaks against a map, in words that follow "because"; None if nothing does.

    A rigid step must raise the similarity; one that scales or shears must not lower the agreement of edges either:
    more freedom always finds more mutual information.
    """
    if found is None:
        return "it lost the overlap of the images"
    if not np.isfinite(found).all() or np.linalg.det(found[:3, :3]) <= 0:
        return "it mirrors or flattens the image"
    scales = np.linalg.svd(found[:3, :3], compute_uv=False)
    if scales.max() > LARGEST_SCALE or scales.min() < 1 / LARGEST_SCALE:
        return f"it scales the image by a factor of {scales.min():.2f} to {scales.max():.2f}"
    new, old = pair.judge(found), pair.judge(before)
    if new.overlap < min(SMALLEST_OVERLAP, 0.8 * old.overlap):
        return f"it leaves only {100 * new.overlap:.0f} % of the fields of view overlapping"
    if new.similarity < old.similarity:
        return NOT_MORE_SIMILAR
    if kind != "rigid" and edges.agreement(found)[0] < (1 - EDGE_TOLERANCE) * edges.agreement(before)[0]:
        return EDGES_AGREE_LESS
    return None
