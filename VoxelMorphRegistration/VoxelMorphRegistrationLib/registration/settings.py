"""Settings: everything that decides a result, besides the images."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches

from ..alignment.align import METHODS
from ..errors import SettingsError

QUALITIES = ("best", "preview")
REFINEMENTS = ("auto", "off", "coarse", "fast", "default", "accurate")
SIMILARITIES = ("auto", "lncc", "mind", "mi", "mse")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32")
EXPECTED_ERRORS = ("auto", "off", "quick", "full")


@dataclass(frozen=True)
class Settings:
    """Everything that decides a result, besides the images. The same for panel, console and command line.

    quality: "best" (the most accurate result) or "preview" (within seconds); it decides what is "auto" below (see
    choice.resolved). model: name of a shipped model, a model file, "auto" (none where a refinement follows, but
    see registration.starts for slices; without one the shipped model whose coarse pass makes the images most similar),
    or "none" (no network: refinement alone).
    alignment: none, centers, mass, rigid, similarity or affine. passes: how often the network is applied to its own
    result (None: as the model's card says). refinement: auto (by the quality), off, coarse, fast, default or accurate
    (see refinement.levels.PRESETS).
    similarity: what the refinement compares: lncc (local correlation, one modality), mind (self-similarity
    descriptors, any two), mi (mutual information), mse (equal intensities) or auto (lncc or mind, by the images).
    smoothness: factor of the refinement's smoothing. label_weight, landmark_weight: how much given labels and
    landmarks guide the refinement, beside the images (0: they only measure). channel_weights, channel_similarities: of
    several images of each side, the first ones first (none: all the same; `similarity` for all). device:
    auto, cpu, cuda or mps. precision: auto (convolutions of bfloat16, or of 8-bit integers from the second pass on,
    where the processor is faster with them and the model allows it) or float32. working_spacing_mm: voxel size of the
    network's grid (None: the model's). seed: of the alignment's sampling. background: value outside the moving image
    (None: its minimum). label_interpolation: nearest or linear. jacobian: "total" (as the written transform) or
    "deformable" (without the linear part).
    expected_error: the map of the error that is expected: off, quick (a small part of the registration's time), full
    (up to as long again) or auto (off: docs/expected-error.md says how far it holds).
    jacobian_grid: "field" (on the voxels of the displacement where they are larger than those of the fixed image) or
    "fixed" (on those of the fixed image).
    """

    quality: str = "best"
    model: str = "auto"
    alignment: str = "affine"
    passes: int | None = None
    refinement: str = "auto"
    similarity: str = "auto"
    smoothness: float = 1.0
    label_weight: float = 0.0
    landmark_weight: float = 0.0
    channel_weights: tuple[float, ...] = ()
    channel_similarities: tuple[str, ...] = ()
    device: str = "auto"
    precision: str = "auto"
    working_spacing_mm: float | None = None
    seed: int = 0
    background: float | None = None
    label_interpolation: str = "nearest"
    jacobian: str = "total"
    expected_error: str = "auto"
    jacobian_grid: str = "field"

    def __post_init__(self) -> None:
        choices = {
            "quality": QUALITIES,
            "alignment": METHODS,
            "refinement": REFINEMENTS,
            "similarity": SIMILARITIES,
            "device": DEVICES,
            "precision": PRECISIONS,
            "label_interpolation": ("nearest", "linear"),
            "jacobian": ("total", "deformable"),
            "expected_error": EXPECTED_ERRORS,
            "jacobian_grid": ("field", "fixed"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"The setting {name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}."
                )
        self._check_channels()
        if not isinstance(self.model, str) or not self.model:
            raise SettingsError("The setting model must be a model's name, a model file, 'auto' or 'none'.")
        if self.model == "none" and self.refinement == "off":
            raise SettingsError("Without a model there is nothing to do when refinement is off. Choose a refinement.")
        if self.passes is not None and not (_is_whole(self.passes) and 1 <= self.passes <= 10):
            raise SettingsError(f"The setting passes is {self.passes!r}; it must be a whole number from 1 to 10.")
        for name, low, high in (("smoothness", 0.2, 5), ("label_weight", 0, 100), ("landmark_weight", 0, 100)):
            value = getattr(self, name)
            if not (_is_number(value) and low <= value <= high):
                raise SettingsError(f"The setting {name} is {value!r}; it must be a number from {low} to {high}.")
        if not _is_whole(self.seed) or self.seed < 0:
            raise SettingsError(f"The setting seed is {self.seed!r}; it must be a whole number of at least 0.")
        spacing = self.working_spacing_mm
        if spacing is not None and not (_is_number(spacing) and 0 < spacing < 1000):
            raise SettingsError(f"The setting working_spacing_mm is {spacing!r}; it must be a positive number.")
        if self.background is not None and not _is_number(self.background):
            raise SettingsError(f"The setting background is {self.background!r}; it must be a number.")

    def _check_channels(self) -> None:
        for name in ("channel_weights", "channel_similarities"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise SettingsError(
                    f"The setting {name} is {value!r}; it must be a list, one for each image of a side."
                )
            # Lists come from JSON.
            object.__setattr__(self, name, tuple(value))
        if not all(_is_number(value) and 0 < value <= 100 for value in self.channel_weights):
            raise SettingsError(
                f"The setting channel_weights is {list(self.channel_weights)}; weights are numbers above 0, up to 100."
            )
        if not all(value in SIMILARITIES for value in self.channel_similarities):
            raise SettingsError(
                f"The setting channel_similarities is {list(self.channel_similarities)}; each must be one of "
                f"{', '.join(SIMILARITIES)}."
            )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> Settings:
        """Settings from JSON; entries left out keep their defaults. Raises SettingsError."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingsError(f"The settings are not valid JSON: {error}.") from error
        if not isinstance(values, dict):
            raise SettingsError("The settings must be a JSON object with names and values.")
        known = [f.name for f in fields(Settings)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            # Such as refine, which is what the option is called.
            near = get_close_matches(unknown[0], known, 1)
            hint = f" Do you mean {near[0]}?" if near else ""
            raise SettingsError(f"There is no setting named {', '.join(unknown)}.{hint}")
        return Settings(**values)

    def replace(self, **changes) -> Settings:
        """A copy with some settings changed."""
        return replace(self, **changes)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    # Whole numbers of JSON can be larger than any float; NaN is not smaller than anything.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
