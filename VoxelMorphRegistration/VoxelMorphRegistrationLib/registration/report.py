"""The report: what was done and how well it worked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from .. import __version__


def headline(similarity: Mapping[str, Mapping[str, float]]) -> tuple[str, float | None, float | None]:
    """The one number of a report's similarity that is shown first: its name, and the value before and after.

    The local correlation is what a refinement of one modality raises, while the correlation of all voxels may fall
    (docs/quality.md). Reports of earlier versions have only the latter.
    """
    key, name = ("local", "Local correlation") if "local" in similarity.get("after", {}) else ("ncc", "Correlation")
    before, after = (similarity.get(stage, {}).get(key) for stage in ("before", "after"))
    return name, before, after


@dataclass(frozen=True)
class Report:
    """What was done and how well it worked.

    similarity ("local", "ncc" and "mi", see registration.evaluation), dice, hd95_mm and tre_mm have the entries
    "before" (as the images lie, with the initial transform), "aligned" (after the linear alignment) and "after".
    refinement: preset, similarity and why it was chosen, its value before and after, steps at each stage, whether it
    went on in detail, what guided it, where it was made both ways the "agreement" of both (see both_ways; the value
    after is not known then), and where a slice was refined from several starts the "start" of the result that was kept
    ("nothing" or a network's name) and the other "starts": of each network the local correlation of its result and of
    that from nothing, at the voxels that both carry into the moving image; or None. stopped_at: the stage in which the
    user asked to keep what there was, where that left something out, or None.
    checks: of each stage that was made ("alignment", by labels alone; "network", "refinement"), whether its
    result was kept, and the measures of the images and the mean Dice of given labels before and after it. folding: of
    the deformable part, `inside` the mask or the foreground of the fixed image, and in the whole `volume`, at voxels of
    `voxel_mm`; and by which factors it changes the volume of `pieces` of the anatomy.
    volume_change_percent: by how much each structure is larger in the moving image, {label: percent}, from
    the mean determinant of T over the fixed label (the warped one where there is no fixed one). displacement_mm: how
    far the deformable part carries it, {label: {"mean", "p95"}}. covered_percent: the part of the measured region that
    T carries into the moving image. inverse: if the inverse transform was made, its tolerance at its voxels, and the
    "mean_mm" and "max_mm" by which T(T^-1(y)) misses y over the measured region, between voxels, too. worst_ras: where,
    in fixed RAS mm, the smallest "determinant" of the measured region and the largest "landmark" error are. model: of
    the network, its "name", "file" and "precision", and in how many voxels its field folded before these places were
    smoothed, "folds_smoothed" (not looked for after an initial field). expected_error: of the bound in mm that the true
    error stays under with 90 %, over the measured region: "median", "p90" (its own quantiles there), the percent of the
    region where it is "under_1mm", "under_2mm", "under_5mm", of each structure "mean" and "max" ("labels"), and the
    "effort" it was made with; or None where none was made. worst_ras then has "expected_error", where the bound is
    largest.
    """

    similarity: dict[str, dict[str, float]]
    folding: dict
    largest_displacement_mm: float
    linear: list[list[float]]
    dice: dict | None = None
    hd95_mm: dict | None = None
    tre_mm: dict | None = None
    volume_change_percent: dict | None = None
    displacement_mm: dict | None = None
    covered_percent: float | None = None
    inverse: dict[str, float] | None = None
    expected_error: dict | None = None
    worst_ras: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    model: dict = field(default_factory=lambda: {"name": "none", "file": None})
    passes: int = 0
    refinement: dict | None = None
    stopped_at: str | None = None
    checks: dict[str, dict] = field(default_factory=dict)
    working_grid: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    version: str = __version__

    def to_dict(self) -> dict:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(_json_ready(self.to_dict()), indent=2)


def _json_ready(value):
    """NaN is no JSON: None stands for what cannot be measured."""
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
