"""The training configuration: one TOML file, read into checked dataclasses."""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, SettingsError
from ..images.places import check_place
from ..networks.facts import MOST_FEATURES, MOST_LEVELS
from ..networks.unet import DEFAULT_DECODER, DEFAULT_ENCODER
from .anatomy import AnatomySection, AnatomySource
from .images import ImageSource, ImagesSection
from .keypoints import KeypointsSection
from .pairs import PairSource, StepSizes
from .scans import ScanSource, ScansSection, WithScans
from .shapes import ShapeRecipe, ShapeSource
from .supervision import Supervision, SupervisionSection
from .teacher import TeacherSection, TeacherSource, WithTeacher

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# No setting is larger; NaN and infinity are none.
LARGEST_NUMBER = 1e12
PRECISIONS = ("float32", "bfloat16")
# What names a place.
FOLDERS = (
    ("anatomy", "folder"),
    ("scans", "folder"),
    ("teacher", "folder"),
    ("images", "folder"),
    ("images", "table"),
)
SOURCES = ("shapes", "anatomy", "images")
CHOICES = {
    "network.kind": ("flow", "keypoints"),
    "loss.similarity": ("none", "mse", "ncc", "ssim"),
    "loss.penalty": ("gradient", "bending"),
    "loss.penalised": ("displacement", "velocity"),
}


@dataclass(frozen=True)
class NetworkSection:
    """[network]: features of the U-Net (see networks.UNet) and squarings of the velocity's integration.

    kind: what it gives, the "flow" of every place, or "keypoints" with their displacements (see networks.heatmaps),
    which takes integration_steps = 0 and symmetric = false. integration_steps: 0 for a network that gives the
    displacement itself, as in the paper. half_resolution: of the flow, or of the features of places. symmetric: the
    mean of both directions (see networks.symmetric), at twice the cost.
    """

    kind: str = "flow"
    encoder: tuple[int, ...] = DEFAULT_ENCODER
    decoder: tuple[int, ...] = DEFAULT_DECODER
    integration_steps: int = 5
    half_resolution: bool = True
    symmetric: bool = True


@dataclass(frozen=True)
class LossSection:
    """[loss]: the weighted sum of what the pairs allow.

    similarity: of the warped to the fixed image, none, mse, ncc (in windows of `window` voxels) or ssim, times
    similarity_weight. dice: weight of the soft Dice of the structures (gamma of the paper). smoothness: weight of the
    penalty (lambda of the paper), "gradient" (squared) or "bending" (energy), on the displacement or the velocity
    (`penalised`). displacement: weight of |u - truth|^2 where the truth is known. landmarks: weight of the squared
    landmark distance in voxels. For a network of keypoints these two are of its points, heatmap is the weight of the
    cross entropy of their heatmaps with the truth, and the others are of the field that is fitted to the points.
    """

    similarity: str = "none"
    similarity_weight: float = 1.0
    window: int = 9
    dice: float = 1.0
    smoothness: float = 1.0
    penalty: str = "gradient"
    penalised: str = "displacement"
    displacement: float = 0.0
    landmarks: float = 0.0
    heatmap: float = 0.0


@dataclass(frozen=True)
class OptimiserSection:
    """[optimiser]: Adam, gradients cut to `gradient_norm`.

    The rate rises over `warm_steps`, stays, and falls to zero over the last `decay_steps`. Validation and export take
    the mean of the weights over about the last `average_steps` steps; with 0, the weights of the last step.
    """

    learning_rate: float = 1e-3
    gradient_norm: float = 1.0
    warm_steps: int = 200
    decay_steps: int = 2000
    average_steps: int = 0


@dataclass(frozen=True)
class ValidationSection:
    """[validation]: pairs of held-out seeds, looked at every `every` steps."""

    pairs: int = 16
    every: int = 1000


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training run.

    source: where the pairs come from: "shapes" (random), "anatomy" (label maps) or "images"; the section of that name
    says more, and [supervision] which structures count. batch: pairs a step. shape: the largest grid (K, J, I) or
    (J, I) in voxels, also that of the validation. smallest: each step draws its sizes between this and `shape`,
    multiples of the network's stride, so that the network does not learn the place of the border; without it every
    step has `shape`. passes: a step trains the first to the last of this many, drawn evenly; those before it are made
    as in a registration, without learning from them. precision: of the network's own pass.
    """

    name: str
    shape: tuple[int, ...]
    steps: int
    source: str = "shapes"
    smallest: tuple[int, ...] = ()
    batch: int = 1
    passes: int = 1
    seed: int = 0
    precision: str = "float32"
    log_every: int = 20
    checkpoint_every: int = 500
    network: NetworkSection = field(default_factory=NetworkSection)
    keypoints: KeypointsSection = field(default_factory=KeypointsSection)
    shapes: ShapeRecipe = field(default_factory=ShapeRecipe)
    anatomy: AnatomySection = field(default_factory=AnatomySection)
    scans: ScansSection = field(default_factory=ScansSection)
    teacher: TeacherSection = field(default_factory=TeacherSection)
    images: ImagesSection = field(default_factory=ImagesSection)
    supervision: SupervisionSection = field(default_factory=SupervisionSection)
    loss: LossSection = field(default_factory=LossSection)
    optimiser: OptimiserSection = field(default_factory=OptimiserSection)
    validation: ValidationSection = field(default_factory=ValidationSection)

    def __post_init__(self) -> None:
        if not is_plain_name(self.name):
            raise SettingsError(
                "name must be a plain name of 1 to 100 characters: it names a folder, and leads to no other."
            )
        for key, counts in (("encoder", self.network.encoder), ("decoder", self.network.decoder)):
            if not 1 <= len(counts) <= MOST_LEVELS or not all(1 <= count <= MOST_FEATURES for count in counts):
                raise SettingsError(
                    f"network.{key} must be 1 to {MOST_LEVELS} whole numbers from 1 to {MOST_FEATURES}."
                )
        if len(self.shape) not in (2, 3):
            raise SettingsError(f"shape must have 2 or 3 sizes, not {len(self.shape)}.")
        stride = self.stride
        if any(size < stride or size % stride for size in (*self.shape, *self.smallest)):
            raise SettingsError(f"Sizes in shape and smallest must be multiples of {stride} for this network.")
        if self.smallest and (
            len(self.smallest) != len(self.shape) or any(a > b for a, b in zip(self.smallest, self.shape, strict=True))
        ):
            raise SettingsError(f"smallest must have {len(self.shape)} sizes, none larger than those of shape.")
        if len(self.network.decoder) < len(self.network.encoder):
            raise SettingsError("network.decoder needs at least as many features as network.encoder.")
        if self.precision not in PRECISIONS:
            raise SettingsError(f"precision must be one of {', '.join(PRECISIONS)}, not '{self.precision}'.")
        counts = (
            self.steps,
            self.batch,
            self.passes,
            self.log_every,
            self.checkpoint_every,
            self.validation.pairs,
            self.validation.every,
        )
        if min(counts) < 1:
            raise SettingsError(
                "steps, batch, passes, log_every, checkpoint_every and both values of [validation] must be positive."
            )
        if not min(self.optimiser.learning_rate, self.optimiser.gradient_norm) > 0:
            raise SettingsError("optimiser.learning_rate and optimiser.gradient_norm must be positive.")
        lengths = (self.optimiser.warm_steps, self.optimiser.decay_steps, self.optimiser.average_steps)
        if min(lengths) < 0:
            raise SettingsError("optimiser.warm_steps, decay_steps and average_steps must not be negative.")
        loss = self.loss
        weights = (loss.similarity_weight, loss.dice, loss.smoothness, loss.displacement, loss.landmarks, loss.heatmap)
        if min(weights) < 0:
            raise SettingsError("The weights in [loss] must not be negative.")
        for name, allowed in CHOICES.items():
            section, key = name.split(".")
            value = getattr(getattr(self, section), key)
            if value not in allowed:
                raise SettingsError(f"{name} must be one of {', '.join(allowed)}, not '{value}'.")
        if self.network.kind == "keypoints" and (self.network.integration_steps or self.network.symmetric):
            raise SettingsError(
                "Points of the fixed image have displacements, and no velocities nor another direction: "
                'network.kind = "keypoints" needs network.integration_steps = 0 and network.symmetric = false.'
            )
        if self.network.kind == "flow" and loss.heatmap:
            raise SettingsError('loss.heatmap is for networks with network.kind = "keypoints".')
        if self.source not in SOURCES:
            raise SettingsError(f"source must be one of {', '.join(SOURCES)}, not '{self.source}'.")
        coarsest = self.shapes.coarsest
        if coarsest < 2 or coarsest & (coarsest - 1):
            raise SettingsError(f"shapes.coarsest must be a power of two from 2 on, not {coarsest}.")
        for part in fields(self.shapes):
            value = getattr(self.shapes, part.name)
            if isinstance(value, tuple) and not 0 <= value[0] <= value[-1]:
                raise SettingsError(f"shapes.{part.name} must be a range [lowest, highest], not {list(value)}.")

    @property
    def dimension(self) -> int:
        return len(self.shape)

    @property
    def stride(self) -> int:
        return 2 ** len(self.network.encoder)

    def _supervision(self, base: Path) -> Supervision:
        return Supervision.of(self.supervision, self.seed, base)

    def pairs(self, base: Path = Path(), report: Callable[[str], None] = lambda line: None) -> PairSource:
        """The source of the pairs; relative folders start at `base`. Reads the data: InputError says what is wrong."""
        sizes = StepSizes(self.shape, self.smallest, self.stride)
        if self.source == "anatomy":
            maps = self.label_maps(base)
            people = WithTeacher(maps, TeacherSource(self.teacher, maps, base)) if self.teacher.folder else maps
            return WithScans(people, ScanSource(self.scans, maps, base)) if self.scans.folder else people
        if self.source == "images":
            return ImageSource(self.images, sizes, self.seed, self._supervision(base), base, report)
        return ShapeSource(self.shapes, sizes, self.seed)

    def label_maps(self, base: Path = Path()) -> AnatomySource:
        """The label maps of "anatomy", without scans and teacher."""
        sizes = StepSizes(self.shape, self.smallest, self.stride)
        return AnatomySource(self.anatomy, self.shapes, self._supervision(base), sizes, self.seed, base)

    def to_dict(self) -> dict:
        """Plain values, lists for tuples, as in the TOML file; of absolute paths, which belong to one computer, the
        last part only.
        """
        values = json.loads(json.dumps(asdict(self)))
        for section, key in FOLDERS:
            path = Path(values[section][key])
            if path.is_absolute():
                values[section][key] = path.name
        return values


def load_config(path: Path | str) -> TrainingConfig:
    """Read the TOML file at `path`. InputError: unreadable; SettingsError: unknown or wrong values."""
    path = Path(path)
    check_place(path, "training configuration")
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise InputError(f"The training configuration {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The training configuration {path} is no text in UTF-8.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"The training configuration {path} is no valid TOML: {str(error)[:200]}.") from error
    return config_from_dict(values)


def config_from_dict(values: dict) -> TrainingConfig:
    """A configuration from plain values, as in the TOML file or a checkpoint."""
    return _section(TrainingConfig, values, "")


def _section(kind: Any, values: dict, prefix: str):
    types = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise SettingsError(f"Unknown training setting '{prefix}{unknown[0][:40]}'. Known: {', '.join(types)}.")
    checked = {name: _checked(types[name], value, prefix + name) for name, value in values.items()}
    try:
        return kind(**checked)
    except TypeError as error:
        missing = [n for n in ("name", "shape", "steps") if n in types and n not in values]
        raise SettingsError(f"The training configuration needs {', '.join(missing)}.") from error


def _checked(kind: Any, value, name: str):
    """`value` as `kind` (a section, a tuple, or a plain type), or SettingsError."""
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise SettingsError(f"'{name}' must be a section, [{name}].")
        return _section(kind, value, f"{name}.")
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, (list, tuple)) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise SettingsError(f"Training setting '{name}' must be a list of numbers, not {repr(value)[:80]}.")
        return tuple(_checked(inner[0], item, name) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER:
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        shown = f"a whole number of {value.bit_length()} bits" if type(value) is int else repr(value)[:80]
        raise SettingsError(f"Training setting '{name}' must be of type {kind.__name__}, not {shown}.")
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST_NUMBER:
        # NaN among them, which is neither smaller nor larger than any limit.
        raise SettingsError(f"Training setting '{name}' must be a number of at most {LARGEST_NUMBER:g}.")
    return value


def is_plain_name(name: str) -> bool:
    """Whether a text names a file of its own folder on every system, and no other place."""
    return (
        1 <= len(name) <= 100
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
        and name == name.strip(". ")
        and not name.startswith("-")
    )


def with_scans(config: TrainingConfig, folder: Path | str) -> TrainingConfig:
    """The configuration with its scans in another `folder`. SettingsError where it uses none."""
    if config.source != "anatomy" or not config.scans.folder:
        raise SettingsError("--scans was given, but the configuration has no section [scans] that uses any.")
    return replace(config, scans=replace(config.scans, folder=str(Path(folder).resolve())))


def with_teacher(config: TrainingConfig, folder: Path | str) -> TrainingConfig:
    """The configuration with its teacher's fields in another `folder`. SettingsError where it uses none."""
    if config.source != "anatomy" or not config.teacher.folder:
        raise SettingsError("--teacher was given, but the configuration has no section [teacher] that uses any fields.")
    return replace(config, teacher=replace(config.teacher, folder=str(Path(folder).resolve())))


def with_data(config: TrainingConfig, folder: Path | str) -> TrainingConfig:
    """The configuration with its training data in another `folder`. SettingsError where it uses none."""
    if config.source == "shapes":
        raise SettingsError("--data was given, but the configuration trains on random shapes and uses no data.")
    changes = {"folder": str(Path(folder).resolve())}
    if config.source == "images" and config.images.table:
        changes = {"table": str(Path(folder).resolve() / Path(config.images.table).name)}
    return replace(config, **{config.source: replace(getattr(config, config.source), **changes)})
