"""A model's card: the facts that travel inside its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from ..errors import ModelError

CARD_FILE = "voxelmorph.json"
CARD_FORMAT = "voxelmorph-registration-model"
CARD_VERSION = 1
CHOICES = {
    "dimension": (2, 3),
    "output": ("velocity", "displacement"),
    "flow_alignment": ("centers", "corners"),
    "returns": ("flow", "moved and field"),
    "axes": ("kji", "ijk"),
}
NORMALIZATIONS = ("percentile", "white-matter")


@dataclass(frozen=True)
class ModelCard:
    """What a network needs and where it comes from.

    dimension: 2 or 3. spacing_mm: the voxel size (i, j, k) it was trained at, or None: it works at any scale, and
    the working grid is chosen to have about `target_voxels` voxels. shape: sizes of a network locked to one
    shape, in the order of `axes`. orientation: directions of i, j, k such as "LIA" that it was trained in, or None.
    stride: sizes must be multiples of it. output: "velocity" (stationary, to be integrated in `integration_steps`
    squarings) or "displacement". output_scale: network grid voxels in one output unit (2 for a flow in
    half-resolution voxels). flow_alignment: "centers" when output voxel p covers the network voxels from p * scale
    on, "corners" when the first and the last voxel centres of both grids coincide. returns: "flow", or "moved and
    field" for foreign networks that return both, in either order. axes: order of the tensor axes, "kji" as numpy
    arrays here, "ijk" as nibabel arrays. normalization: how intensities get to [0, 1], {"method": "percentile", "low",
    "high"} or {"method": "white-matter", "target"}. passes: default number of passes. pass_scales: factor of the
    working grid's spacing in each pass, the last one for all further passes.
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
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ModelError(
                    f"The facts of model '{self.name}' say {key} = {getattr(self, key)!r}; it must be one of "
                    f"{', '.join(map(repr, allowed))}."
                )
        if self.normalization.get("method") not in NORMALIZATIONS:
            raise ModelError(
                f"The facts of model '{self.name}' name the normalization {self.normalization.get('method')!r}; "
                f"it must be one of {', '.join(NORMALIZATIONS)}."
            )
        for key in ("spacing_mm", "shape"):
            value = getattr(self, key)
            if value is not None:
                if len(value) != self.dimension or min(value) <= 0:
                    raise ModelError(
                        f"The facts of model '{self.name}' need {self.dimension} positive numbers for {key}, "
                        f"not {value}."
                    )
                object.__setattr__(self, key, tuple(value))
        object.__setattr__(self, "pass_scales", tuple(self.pass_scales))
        if not self.pass_scales or min(self.pass_scales) <= 0:
            raise ModelError(f"The facts of model '{self.name}' need positive numbers for pass_scales.")
        if self.stride < 1 or self.integration_steps < 0 or self.passes < 1 or self.output_scale <= 0:
            raise ModelError(f"The facts of model '{self.name}' have a stride, scale, steps or passes out of range.")

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
        unknown = sorted(set(facts) - known)
        if unknown:
            raise ModelError(f"The facts in {source} have unknown entries: {', '.join(unknown)}.")
        if "name" not in facts:
            raise ModelError(f"The facts in {source} lack the model's name.")
        try:
            return ModelCard(**facts)
        except (TypeError, AttributeError) as error:
            raise ModelError(f"The facts in {source} have an entry of the wrong type: {error}.") from error

    def memory_bytes(self, voxels: int) -> int:
        """Estimated peak of one forward pass over `voxels` network voxels, float32 activations.

        The largest step is either the first level (its features with the convolution's input, at full resolution)
        or, in a network that decodes to full resolution, the last joined skip. Without a known architecture
        64 channels are assumed.
        """
        encoder, decoder = self.architecture.get("encoder"), self.architecture.get("decoder")
        if not encoder or not decoder:
            return voxels * 4 * 64
        channels = 2 + 2 * encoder[0]
        if not self.architecture.get("half_resolution", False):
            channels = max(channels, encoder[0] + 2 * (decoder[len(encoder) - 1] + encoder[0]))
        return voxels * 4 * channels
