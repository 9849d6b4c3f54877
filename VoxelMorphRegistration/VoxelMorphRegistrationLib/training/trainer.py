"""The trainer: random shapes in, a U-Net that predicts a stationary velocity at half resolution out."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError, OutputError, VoxelMorphError
from ..losses import displacement_error, soft_dice, squared_gradient
from ..networks import UNet
from ..sampling import integrate, warp
from .config import TrainingConfig, config_from_dict
from .shapes import ShapePair, random_pair
from .symmetric import Symmetric

CHECKPOINT_FORMAT = "voxelmorph-training-checkpoint-1"
CHECKPOINT_NAME = "checkpoint.ckpt"
# Streams of seeds that never meet: a pair is drawn from (seed, stream, number).
TRAINING_STREAM, VALIDATION_STREAM = 0, 1

Report = Callable[[str], None]


@dataclass(frozen=True)
class StepLosses:
    """The loss of one step and its parts, before weighting."""

    total: float
    dice: float
    smoothness: float
    displacement: float


@dataclass(frozen=True)
class Validation:
    """Means over the held-out pairs. Dice: soft, half resolution. Errors: RMS distance to the truth, full-grid voxels.

    folds_percent: voxels whose Jacobian determinant (central differences, half resolution) is <= 0.
    """

    step: int
    dice_before: float
    dice_after: float
    error_before: float
    error_after: float
    folds_percent: float


class Trainer:
    """One training run. The weights after step n depend on the configuration and n only, not on interruptions."""

    def __init__(self, config: TrainingConfig, output: Path, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.output = Path(output)
        self.device = torch.device(device)
        self.step = 0
        self.seconds = 0.0
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = UNet(config.dimension, config.network.encoder, config.network.decoder)
            initialise(network)
        # Channels last is what CPU and GPU convolutions in bfloat16 are fast with.
        self.memory_format = torch.channels_last_3d if config.dimension == 3 else torch.channels_last
        self.network = network.to(self.device, memory_format=self.memory_format)
        self.model = Symmetric(self.network) if config.network.symmetric else self.network
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.optimiser.learning_rate)
        # The next pair is drawn while the network works on this one.
        self._painter = ThreadPoolExecutor(1)
        self._drawn: dict[int, Future[ShapePair]] = {}

    def run(self, minutes: float | None = None, report: Report = print) -> None:
        """Train until `config.steps`, or about `minutes` from now; the state is saved at the end and on the way."""
        config = self.config
        self.output.mkdir(parents=True, exist_ok=True)
        self._trim_logs()
        start = last = time.monotonic()
        if self.step == 0:
            self._validate_and_log(report)
        while self.step < config.steps:
            losses = self.train_step()
            now = time.monotonic()
            self.seconds += now - last
            last = now
            if self.step % config.log_every == 0:
                self._log_step(losses, report)
            if self.step % config.validation.every == 0 or self.step == config.steps:
                self._validate_and_log(report)
            out_of_time = minutes is not None and time.monotonic() - start > 60.0 * minutes
            if self.step % config.checkpoint_every == 0 or out_of_time or self.step == config.steps:
                self.save(self.output / CHECKPOINT_NAME)
            last = time.monotonic()
            if out_of_time:
                report(f"Stopped after {minutes:g} minutes at step {self.step} of {config.steps}.")
                return

    def train_step(self) -> StepLosses:
        """One step of Adam on one pair. VoxelMorphError when the loss is not finite: the weights stay as they were."""
        config = self.config
        pair = self._training_pair()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, self.step)
        displacement = self.predict(pair)
        dice = soft_dice(warp(pair.moving_labels, displacement), pair.fixed_labels)
        smoothness = squared_gradient(displacement)
        error = displacement_error(displacement, pair.displacement, pair.visible)
        total = dice + config.loss.smoothness * smoothness + config.loss.displacement * error
        losses = StepLosses(*(float(value.detach()) for value in (total, dice, smoothness, error)))
        if not math.isfinite(losses.total):
            raise VoxelMorphError(
                f"The training loss became {losses.total} at step {self.step + 1}. "
                "Lower optimiser.learning_rate and go on from the last checkpoint with --continue."
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.optimiser.gradient_norm)
        self.optimiser.step()
        self.step += 1
        return losses

    def _training_pair(self) -> ShapePair:
        """The pair of the coming step; the one after it begins to be drawn."""
        for number in (self.step, self.step + 1):
            if number not in self._drawn:
                seed = (self.config.seed, TRAINING_STREAM, number)
                shape = training_shape(self.config, seed)
                self._drawn[number] = self._painter.submit(random_pair, self.config.shapes, shape, seed, self.device)
        return self._drawn.pop(self.step).result()

    def predict(self, pair: ShapePair) -> torch.Tensor:
        """The displacement (1, d, *S/2) in half-resolution voxels that the network gives for `pair`."""
        moving, fixed = (image.to(memory_format=self.memory_format) for image in (pair.moving, pair.fixed))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            velocity = self.model(moving, fixed)
        return integrate(velocity.float().contiguous(), self.config.network.integration_steps)

    def validate(self) -> Validation:
        """Look at the held-out pairs; the same ones every time."""
        config = self.config
        rows = []
        for number in range(config.validation.pairs):
            seed = (config.seed, VALIDATION_STREAM, number)
            pair = random_pair(config.shapes, config.shape, seed, self.device)
            with torch.no_grad():
                displacement = self.predict(pair)
                nothing = torch.zeros_like(displacement)
                row = [1.0 - soft_dice(warp(pair.moving_labels, u), pair.fixed_labels) for u in (nothing, displacement)]
                row += [
                    2.0 * displacement_error(u, pair.displacement, pair.visible).sqrt() for u in (nothing, displacement)
                ]
                row.append(100.0 * (jacobian_determinant(displacement) <= 0).float().mean())
            rows.append([float(value) for value in row])
        means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
        return Validation(self.step, *means)

    def save(self, path: Path) -> None:
        """Write everything that going on needs, whole or not at all."""
        state = {
            "format": CHECKPOINT_FORMAT,
            "config": self.config.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        partial = path.with_suffix(".part")
        try:
            torch.save(state, partial)
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"The checkpoint {path} cannot be written: {error}.") from error

    @classmethod
    def resume(
        cls, path: Path, output: Path, device: torch.device | str = "cpu", config: TrainingConfig | None = None
    ) -> Trainer:
        """Go on from the checkpoint at `path`, with its configuration or a changed one of the same network."""
        state = load_checkpoint(path)
        stored = config_from_dict(state["config"])
        trainer = cls(config or stored, output, device)
        if layout(trainer.config) != layout(stored):
            raise InputError(f"The configuration has another network than the checkpoint {path}.")
        trainer.network.load_state_dict(state["network"])
        trainer.optimiser.load_state_dict(state["optimiser"])
        trainer.step, trainer.seconds = state["step"], state["seconds"]
        return trainer

    def _log_step(self, losses: StepLosses, report: Report) -> None:
        rate = learning_rate(self.config, self.step - 1)
        row = {"step": self.step, "seconds": round(self.seconds, 1), "learning_rate": rate, **asdict(losses)}
        _append(self.output / "steps.csv", row)
        report(
            f"step {self.step}/{self.config.steps}  loss {losses.total:.4f}  Dice {1 - losses.dice:.3f}  "
            f"{self.step / self.seconds:.2f} steps/s"
        )

    def _validate_and_log(self, report: Report) -> None:
        result = self.validate()
        _append(self.output / "validation.csv", asdict(result))
        report(
            f"validation at step {self.step}: Dice {result.dice_before:.3f} -> {result.dice_after:.3f}, error "
            f"{result.error_before:.2f} -> {result.error_after:.2f} voxels, folds {result.folds_percent:.3f} %"
        )

    def _trim_logs(self) -> None:
        """Drop log rows later than the state that we go on from."""
        for name in ("steps.csv", "validation.csv"):
            path = self.output / name
            if not path.exists():
                continue
            with path.open(newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([header] + [row for row in rows if int(row[0]) <= self.step and self.step])


def layout(config: TrainingConfig) -> tuple:
    """What decides which weights a network has."""
    return config.dimension, config.network.encoder, config.network.decoder


def training_shape(config: TrainingConfig, seed: tuple[int, ...]) -> tuple[int, ...]:
    """The grid of the step with `seed`: drawn axis by axis between `config.smallest` and `config.shape`."""
    if not config.smallest:
        return config.shape
    stride = 2 ** len(config.network.encoder)
    draw = np.random.default_rng((*seed, len(seed))).integers
    pairs = zip(config.smallest, config.shape, strict=True)
    return tuple(stride * int(draw(low // stride, high // stride + 1)) for low, high in pairs)


def initialise(network: UNet) -> None:
    """Weights that keep the variance of the signal from layer to layer (He et al., ICCV 2015, eq. 15).

    PyTorch's own start lets it fade by about half a layer, and training then begins with thousands of idle steps.
    """
    for block in (*network.down, *network.up, *network.final):
        torch.nn.init.kaiming_normal_(block.conv.weight, a=0.2)
        torch.nn.init.zeros_(block.conv.bias)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of the step after `step` done: linear rise, plateau, half a cosine down to zero."""
    optimiser = config.optimiser
    rise = min(1.0, (step + 1) / max(1, optimiser.warm_steps))
    left = min(1.0, (config.steps - step) / max(1, optimiser.decay_steps))
    return optimiser.learning_rate * rise * 0.5 * (1.0 - math.cos(math.pi * left))


def jacobian_determinant(displacement: torch.Tensor) -> torch.Tensor:
    """det(I + grad u) of (N, d, *S) in voxels by central differences, (N, *S); one-sided at the border."""
    dims = displacement.dim() - 2
    gradients = torch.stack(torch.gradient(displacement, dim=tuple(range(2, 2 + dims))), -1)
    identity = torch.eye(dims, device=displacement.device)
    return torch.linalg.det(gradients.movedim(1, -2) + identity)


def load_checkpoint(path: Path | str) -> dict:
    """The state saved by Trainer.save, on the CPU."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets in a foreign file
        raise InputError(f"{path} is no training checkpoint, or it is damaged.") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path} is no training checkpoint of this program.")
    return state


def _append(path: Path, row: dict) -> None:
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
