"""Label maps and segmentations as files."""

from __future__ import annotations

import numpy as np


def segmentation(path, layers, segments, grid):
    """A .seg.nrrd as Slicer writes it: (K, J, I) or (K, J, I, layers), and (name, value, layer) of each segment."""
    lps = np.diag([-1, -1, 1, 1]) @ grid.ijk_to_ras
    vector = lambda values: "(" + ",".join(repr(float(value)) for value in values) + ")"  # noqa: E731
    sizes = [*([layers.shape[3]] if layers.ndim == 4 else []), *grid.size]
    space = " ".join([*(["none"] if layers.ndim == 4 else []), *(vector(lps[:3, axis]) for axis in range(3))])
    head = [
        "NRRD0004",
        "type: uint8",
        f"dimension: {layers.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {space}",
        f"kinds: {'list ' if layers.ndim == 4 else ''}domain domain domain",
        "encoding: raw",
        f"space origin: {vector(lps[:3, 3])}",
    ]
    for number, (name, value, layer) in enumerate(segments):
        head += [f"Segment{number}_ID:=id{number}", f"Segment{number}_Name:={name}"]
        head += [f"Segment{number}_LabelValue:={value}", f"Segment{number}_Layer:={layer}"]
    path.write_bytes(("\n".join(head) + "\n\n").encode() + np.ascontiguousarray(layers, np.uint8).tobytes())
    return path
