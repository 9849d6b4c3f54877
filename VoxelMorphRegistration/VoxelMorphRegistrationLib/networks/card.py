"""A model's card: the facts that travel inside its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ..errors import ModelError
from .facts import check_facts

CARD_FILE = "voxelmorph.json"
CARD_FORMAT = "voxelmorph-registration-model"
CARD_VERSION = 1


@dataclass(frozen=True)
class ModelCard:
    """What a network needs and where it comes from.

    dimension: 2 or 3. spacing_mm: the voxel size (i, j, k) it was trained at, or None: it works at any scale, and
    the working grid is chosen to have about `target_voxels` voxels. shape: sizes of a network locked to one
    shape, in the order of `axes`. orientation: directions of i, j, k such as "LIA" that it was trained in, or None.
    stride: sizes must be multiples of it. output: "velocity" (stationary, to be integrated in `integration_steps`
    squarings) or "displacement". output_scale: network grid voxels in one output unit (2 for a flow in
    half-resolution voxels). flow_alignment: "centers" when output voxel p covers the network voxels from p * scale
    on, "corners" when the first and the last voxel centres of both grids coincide. returns: "flow"; "moved and
    field" for foreign networks that return both, in either order; or "keypoints" for networks that take (moving, fixed,
    region), the last (1, 1, *S) and other than 0 where points may lie, and return (1, P, 2 d + 1): position and
    displacement of P points in voxels of the output, and the standard deviation of the displacement. axes: order of the
    tensor axes, "kji" as numpy arrays here, "ijk" as nibabel arrays. normalization: how intensities get to [0, 1],
    {"method": "percentile", "low", "high"} or {"method": "white-matter", "target"}. passes: default number of passes.
    pass_scales: factor of the working grid's spacing in each pass, the last one for all further passes.
    """

    name: str
    description: str = ""
    dimension: int = 3
    spacing_mm: tuple[float, ...] | None = None
    target_voxels: int | None = None
    shape: tuple[int, ...] | None = None
    orientation: str | None = None
    stride: int = 16
    output: str = "velocity"
    output_scale: float = 2.0
    flow_alignment: str = "centers"
    integration_steps: int = 7
    returns: str = "flow"
    axes: str = "kji"
    normalization: dict = field(default_factory=lambda: {"method": "percentile", "low": 0.5, "high": 99.5})
    passes: int = 1
    pass_scales: tuple[float, ...] = (1.0,)
    architecture: dict = field(default_factory=dict)
    license: str = ""
    citation: str = ""
    training: dict = field(default_factory=dict)
    validation: dict = field(default_factory=dict)
    limits: str = ""

    def __post_init__(self) -> None:
        check_facts(self)
        for key in ("spacing_mm", "shape", "pass_scales"):
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, tuple(value))

    def scale_of(self, number: int) -> float:
        """Factor of the working grid's spacing in a pass, counted from 0."""
        return self.pass_scales[min(number, len(self.pass_scales) - 1)]

    @property
    def shape_kji(self) -> tuple[int, ...] | None:
        """The locked shape in array order, or None."""
        return self.shape if self.shape is None or self.axes == "kji" else self.shape[::-1]

    def to_json(self) -> str:
        return json.dumps({"format": CARD_FORMAT, "version": CARD_VERSION, **asdict(self)}, indent=2)

    @staticmethod
    def from_dict(facts: Mapping, source: str) -> ModelCard:
        """A card from JSON facts; `source` names the file in messages. Raises ModelError."""
        facts = dict(facts)
        if facts.pop("format", CARD_FORMAT) != CARD_FORMAT or facts.pop("version", CARD_VERSION) != CARD_VERSION:
            raise ModelError(f"The facts in {source} are of another format or a newer version. Update this program.")
        known = {f.name for f in fields(ModelCard)}
        unknown = sorted(str(key)[:40] for key in set(facts) - known)
        if unknown:
            raise ModelError(f"The facts in {source} have unknown entries: {', '.join(unknown[:10])}.")
        if "name" not in facts:
            raise ModelError(f"The facts in {source} lack the model's name.")
        return ModelCard(**facts)

    def memory_bytes(self, voxels: int) -> int:
        """Estimated peak of one forward pass over `voxels` network voxels, float32 activations.

        The largest step is either the first level (its features with the convolution's input, at full resolution)
        or, in a network that decodes to full resolution, the last joined skip. Without a known architecture
        64 channels are assumed.
        """
        encoder, decoder = self.architecture.get("encoder"), self.architecture.get("decoder")
        if not encoder or not decoder or len(decoder) < len(encoder):
            return voxels * 4 * 64 + self._heatmap_bytes(voxels)
        channels = 2 + 2 * encoder[0]
        if not self.architecture.get("half_resolution", False):
            channels = max(channels, encoder[0] + 2 * (decoder[len(encoder) - 1] + encoder[0]))
        return voxels * 4 * channels + self._heatmap_bytes(voxels)

    def _heatmap_bytes(self, voxels: int) -> int:
        """What the points of a network of keypoints take besides: maps of the operator, heatmaps, the dense fit."""
        if self.returns != "keypoints":
            return 0
        count, positions = self.architecture.get("count", 1024), self.architecture.get("positions", 11)
        fit = 8 * 4 * count**2 + 16 * count * int(voxels ** (1 - 1 / self.dimension))
        return 4 * 24 * voxels + 4 * 4 * count * positions**self.dimension + fit


# Far above any card written; reading takes some ten times the memory.
MOST_FACTS_BYTES = 2**20


def facts_from(data: bytes, source: str) -> dict:
    """The JSON object of a card; `source` names it in messages. Raises ModelError."""

    def refuse(text: str):
        raise ValueError(f"{text} is no number of JSON")

    if len(data) > MOST_FACTS_BYTES:
        raise ModelError(f"The facts in {source} are larger than {MOST_FACTS_BYTES // 2**20} MiB; they were not read.")
    try:
        facts = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"The facts in {source} are not valid JSON: {str(error)[:200]}.") from error
    if not isinstance(facts, dict):
        raise ModelError(f"The facts in {source} must be a JSON object.")
    return facts


def read_facts(path: Path) -> dict:
    """The JSON object of a file with a card's facts. Raises ModelError."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FACTS_BYTES + 1)
    except OSError as error:
        raise ModelError(f"The facts in {path} cannot be read: {error.strerror}.") from error
    return facts_from(data, path.name)
