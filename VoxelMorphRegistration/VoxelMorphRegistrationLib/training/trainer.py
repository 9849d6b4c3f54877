"""The trainer: pairs in, a network that predicts a velocity, a displacement or keypoints out."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InputError, OutputError, VoxelMorphError
from ..fields.jacobian import voxel_determinant
from ..images.sampling import compose, integrate, warp
from ..networks.heatmaps import KeypointNetwork
from . import keypoints, losses
from .averaging import RunningMean
from .beginnings import CHECKPOINT_FORMAT, final_weights, is_model_file, load_checkpoint, model_weights
from .config import TrainingConfig, config_from_dict
from .curves import Curves
from .networks import initialise, layout_of, network_of, unet_of, whole_of
from .pairs import TRAINING_STREAM, VALIDATION_STREAM, PairSource, TrainingPair
from .precision import bfloat16_fault
from .shapes import doubled

CHECKPOINT_NAME = "checkpoint.ckpt"
# Steps in a row without a finite gradient after which a run ends: single ones are skipped, a broken one has no others.
MOST_SKIPPED = 25
# Keeps the draws of passes apart from those of the pairs.
PASSES_DRAW = 7

Report = Callable[[str], None]


@dataclass(frozen=True)
class StepLosses:
    """The loss of one step and its parts, before weighting; NaN where the pair had nothing to compare."""

    total: float
    similarity: float
    dice: float
    smoothness: float
    displacement: float
    landmarks: float
    heatmap: float


@dataclass(frozen=True)
class Validation:
    """Means over the held-out pairs, NaN where they have no labels or no truth.

    Dice: soft, half resolution. Errors: RMS distance to the truth, full-grid voxels. ncc: mean squared local
    correlation of the images. folds_percent: voxels whose Jacobian determinant (central differences, grid of the flow)
    is <= 0.
    """

    step: int
    dice_before: float
    dice_after: float
    error_before: float
    error_after: float
    ncc_before: float
    ncc_after: float
    folds_percent: float


class Trainer:
    """One training run. The weights after step n depend on the configuration and n only, not on interruptions."""

    def __init__(
        self,
        config: TrainingConfig,
        output: Path,
        device: torch.device | str = "cpu",
        source: PairSource | None = None,
    ) -> None:
        """source: of the pairs; what the configuration says when None."""
        self.config = config
        self.source = source or config.pairs()
        self.output = Path(output)
        self.device = torch.device(device)
        self.step = 0
        self.seconds = 0.0
        # Steps without a finite gradient: in all, and in a row up to now.
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._logged = (0, 0.0)
        self._validated: Validation | None = None
        self._curves = Curves(self.output)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = network_of(config)
            initialise(unet_of(network))
        # Channels last is what CPU and GPU convolutions in bfloat16 are fast with.
        self.memory_format = torch.channels_last_3d if config.dimension == 3 else torch.channels_last
        # type: PyTorch's own stubs know no memory_format.
        self.network = network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.model = whole_of(config, self.network)
        self.rank, self.ranks = distributed_place()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.optimiser.learning_rate)
        self.mean = RunningMean(self.network, config.optimiser.average_steps)
        fault = None
        if config.precision == "bfloat16":
            fault = bfloat16_fault(unet_of(self.network), self.device, config.shape, config.smallest)
        self.precision = "float32" if fault else config.precision
        self._alone: torch.nn.Module = self.model
        if isinstance(self.network, KeypointNetwork):
            self._alone = keypoints.Matcher(self.network, self.precision == "bfloat16")
        self._trained = self._alone
        if self.ranks > 1:
            self._trained = torch.nn.parallel.DistributedDataParallel(self._alone)
        # Why the precision is not the configuration's, for who starts the run.
        self.precision_note = fault and f"Training in float32, not in bfloat16: {fault}."
        # The next pair is drawn while the network works on this one.
        self._painter = ThreadPoolExecutor(1)
        self._drawn: dict[int, Future[TrainingPair]] = {}

    def run(self, minutes: float | None = None, report: Report = print) -> None:
        """Train until `config.steps`, or about `minutes` from now; the state is saved at the end and on the way.

        In a distributed run the process of rank 0 decides, reports, validates and saves.
        """
        config = self.config
        if self.rank == 0:
            if self.precision_note:
                report(self.precision_note)
            self.output.mkdir(parents=True, exist_ok=True)
            self._trim_logs()
            if self.step == 0:
                self._validate_and_log(report)
        start = last = time.monotonic()
        self._logged = self.step, self.seconds
        while self.step < config.steps:
            values = self.train_step()
            now = time.monotonic()
            self.seconds += now - last
            stop = self._agreed(minutes is not None and now - start > 60.0 * minutes)
            if self.rank == 0:
                self._after_step(values, stop, report)
            if stop:
                if self.rank == 0:
                    report(f"Stopped after {minutes:g} minutes at step {self.step} of {config.steps}.")
                return
            last = time.monotonic()

    def _after_step(self, values: StepLosses, stop: bool, report: Report) -> None:
        """Log, validate and save where it is due."""
        config = self.config
        done = self.step == config.steps
        if self.step % config.log_every == 0 or done:
            self._log_step(values, report)
        if self.step % config.validation.every == 0 or done:
            self._validate_and_log(report)
        if self.step % config.checkpoint_every == 0 or done or stop:
            self.save(self.output / CHECKPOINT_NAME)

    def _agreed(self, decision: bool) -> bool:
        """The decision of rank 0, in all processes."""
        if self.ranks == 1:
            return decision
        flag = torch.tensor([float(decision)], device=self.device)
        torch.distributed.broadcast(flag, 0)
        return bool(flag)

    def train_step(self) -> StepLosses:
        """One step of Adam; one whose loss or gradient is not finite leaves the weights as they were and is counted.

        VoxelMorphError after MOST_SKIPPED of those in a row.
        """
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        rows: list[StepLosses] = []
        finite = True
        for _ in range(config.batch):
            draw = np.random.default_rng((config.seed, self.step, len(rows), PASSES_DRAW))
            total, parts = self._loss(self._training_pair(len(rows)), int(draw.integers(config.passes)))
            rows.append(parts)
            # Of processes that train together each has its own losses. And no gradient of what is not finite is asked
            # for: PyTorch's warp writes beside its memory where a position is NaN.
            finite = self._all_agree(math.isfinite(parts.total))
            if not finite:
                break
            # Pairs of different sizes cannot be stacked: their gradients are added up.
            (total / config.batch).backward()
        if finite and self._clipped():
            self.optimiser.step()
            self.mean.add()
            self._skipped_in_a_row = 0
        else:
            self.skipped += 1
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= MOST_SKIPPED:
                raise VoxelMorphError(
                    f"{MOST_SKIPPED} steps in a row had no finite loss or gradient ({self.precision}), up to step "
                    f"{self.step + 1}. Lower optimiser.learning_rate and go on from the last checkpoint with --continue"
                    + ('; or train with precision = "float32".' if self.precision == "bfloat16" else ".")
                )
        self.step += 1
        return _means(StepLosses, rows)

    def _clipped(self) -> bool:
        """Cut the gradient to its greatest length; whether it is finite."""
        length = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimiser.gradient_norm)
        return bool(torch.isfinite(length))

    def _all_agree(self, decision: bool) -> bool:
        """Whether the decision is the same good one in all processes."""
        if self.ranks == 1:
            return decision
        flag = torch.tensor([float(decision)], device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
        return bool(flag)

    def _loss(self, pair: TrainingPair, passes_before: int = 0) -> tuple[torch.Tensor, StepLosses]:
        weights = self.config.loss
        before = self._registered(pair, passes_before)
        seen = self._moved(pair, before)
        if isinstance(self.network, KeypointNetwork):
            found = keypoints.found(self.network, self._trained, seen)
            terms = keypoints.terms(self.network, found, pair, before)
            # The fit takes as long as all else, and may be left to the registration.
            if weights.smoothness or weights.dice or weights.similarity != "none":
                dense = found.dense(tuple(pair.fixed.shape[2:]))
                terms = self._field_terms(pair, dense, dense if before is None else compose(before, dense)) | terms
        else:
            velocity, displacement = self.predict(seen, self._trained)
            terms = self._field_terms(pair, velocity, displacement if before is None else compose(before, displacement))
        factors = asdict(weights) | {"similarity": weights.similarity_weight}
        total = sum(factors[name] * term for name, term in terms.items())
        if not isinstance(total, torch.Tensor):
            raise InputError(
                "The pairs have neither a known displacement nor landmarks to learn keypoints from: set loss.dice, "
                "loss.similarity or loss.smoothness."
            )
        values = {part.name: float("nan") for part in fields(StepLosses)}
        values |= {name: float(term.detach()) for name, term in terms.items()}
        return total, StepLosses(**(values | {"total": float(total.detach())}))

    def _field_terms(
        self, pair: TrainingPair, velocity: torch.Tensor, displacement: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The parts of the loss of a dense field."""
        weights, half = self.config.loss, self._at_half(displacement)
        penalty = losses.bending_energy if weights.penalty == "bending" else losses.squared_gradient
        terms = {"smoothness": penalty(velocity if weights.penalised == "velocity" else displacement)}
        if weights.similarity != "none":
            warped = warp(pair.moving, self._at_full(displacement, pair))
            terms["similarity"] = losses.similarity(weights.similarity, warped, pair.fixed, weights.window)
        if weights.dice and pair.fixed_labels is not None and pair.moving_labels is not None:
            terms["dice"] = losses.soft_dice(warp(pair.moving_labels, half), pair.fixed_labels)
        if weights.displacement and pair.displacement is not None:
            terms["displacement"] = losses.displacement_error(half, pair.displacement, pair.visible)
        if weights.landmarks and pair.fixed_points is not None and pair.moving_points is not None:
            full = self._at_full(displacement, pair)
            terms["landmarks"] = losses.landmark_distance(full, pair.fixed_points, pair.moving_points)
        return terms

    def _training_pair(self, part: int = 0) -> TrainingPair:
        """Pair `part` of the coming step; the one after it begins to be drawn."""
        batch = self.config.batch
        order = self.step * batch + part
        # Each process takes its own batch of the pairs of a step.
        wanted, following = (((n // batch) * self.ranks + self.rank) * batch + n % batch for n in (order, order + 1))
        for number in (wanted, following):
            if number not in self._drawn:
                self._drawn[number] = self._painter.submit(self.source.pair, TRAINING_STREAM, number, self.device)
        return self._drawn.pop(wanted).result()

    def predict(self, pair: TrainingPair, model: torch.nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network gives for `pair`, and the displacement; both (1, d, *S') in voxels of the flow's grid."""
        if isinstance(self.network, KeypointNetwork):
            dense = keypoints.found(self.network, self._alone, pair).dense(tuple(pair.fixed.shape[2:]))
            return dense, dense
        moving, fixed = (image.to(memory_format=self.memory_format) for image in (pair.moving, pair.fixed))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            flow = (model or self.model)(moving, fixed)
        flow = flow.float().contiguous()
        steps = self.config.network.integration_steps
        return flow, integrate(flow, steps) if steps else flow

    @torch.no_grad()
    def _registered(self, pair: TrainingPair, passes: int) -> torch.Tensor | None:
        """The displacement after `passes` of the network as it is, (1, d, *S') in voxels of the flow's grid."""
        displacement = None
        for _ in range(passes):
            _, further = self.predict(self._moved(pair, displacement))
            displacement = further if displacement is None else compose(displacement, further)
        return displacement

    def _moved(self, pair: TrainingPair, displacement: torch.Tensor | None) -> TrainingPair:
        """What a further pass gets to see."""
        if displacement is None:
            return pair
        return replace(pair, moving=warp(pair.moving, self._at_full(displacement, pair)))

    def _at_half(self, displacement: torch.Tensor) -> torch.Tensor:
        if self.config.network.half_resolution:
            return displacement
        pool = F.avg_pool3d if self.config.dimension == 3 else F.avg_pool2d
        return 0.5 * pool(displacement, 2)

    def _at_full(self, displacement: torch.Tensor, pair: TrainingPair) -> torch.Tensor:
        if not self.config.network.half_resolution:
            return displacement
        return doubled(displacement, tuple(pair.fixed.shape[2:]))

    def validate(self) -> Validation:
        """Look at the held-out pairs, after all passes; the same ones every time. With the mean weights, if any."""
        with self.mean.in_place():
            return self._validation()

    def _validation(self) -> Validation:
        rows = []
        for number in range(self.config.validation.pairs):
            pair = self.source.pair(VALIDATION_STREAM, number, self.device)
            with torch.no_grad():
                displacement = self._registered(pair, self.config.passes)
                assert displacement is not None, "no pass"
                half = self._at_half(displacement)
                full = self._at_full(displacement, pair)
                fields_ = {"before": (torch.zeros_like(half), torch.zeros_like(full)), "after": (half, full)}
                row: dict[str, Any] = {"step": float(self.step)}
                for when, (u, u_full) in fields_.items():
                    row |= {f"{name}_{when}": value for name, value in _quality(pair, u, u_full).items()}
            rows.append(Validation(**row, folds_percent=100.0 * folded_part(displacement)))
        result = _means(Validation, rows)
        return Validation(**(asdict(result) | {"step": self.step}))

    def facts(self) -> dict:
        """What the card of an exported model says of the training, besides the configuration."""
        facts: dict = {"data": self.source.facts, "device": _device_name(self.device, self.ranks)}
        if self.skipped:
            facts["skipped_steps"] = self.skipped
        for name in ("spacing_mm", "normalization"):
            value = getattr(self.source, name, None)
            if value is not None:
                facts[name] = value
        if self._validated is not None:
            facts["validation"] = {k: v for k, v in asdict(self._validated).items() if math.isfinite(v)}
        return facts

    def save(self, path: Path) -> None:
        """Write everything that going on needs, whole or not at all."""
        state = {
            "format": CHECKPOINT_FORMAT,
            "config": self.config.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "facts": self.facts(),
            "network": self.network.state_dict(),
            "mean": self.mean.state(),
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
        cls,
        path: Path,
        output: Path,
        device: torch.device | str = "cpu",
        config: TrainingConfig | None = None,
        source: PairSource | None = None,
    ) -> Trainer:
        """Go on from the checkpoint at `path`, with its configuration or a changed one of the same network."""
        state = load_checkpoint(path)
        stored = config_from_dict(state["config"])
        trainer = cls(config or stored, output, device, source)
        if layout_of(trainer.config) != layout_of(stored):
            raise InputError(f"The configuration has another network than the checkpoint {path}.")
        trainer.network.load_state_dict(state["network"])
        trainer.optimiser.load_state_dict(state["optimiser"])
        trainer.mean.load(state.get("mean"))
        trainer.step, trainer.seconds = state["step"], state["seconds"]
        trainer.skipped = state.get("facts", {}).get("skipped_steps", 0)
        return trainer

    def start_from(self, path: Path) -> None:
        """Take the weights, and nothing else, from a checkpoint or a model file of our own (transfer learning)."""
        if is_model_file(path):
            weights = model_weights(path)
        else:
            state = load_checkpoint(path)
            weights = final_weights(state)
            if layout_of(config_from_dict(state["config"])) != layout_of(self.config):
                raise InputError(f"The configuration has another network than the checkpoint {path}.")
        expected = self.network.state_dict()
        if {k: w.shape for k, w in weights.items()} != {k: w.shape for k, w in expected.items()}:
            raise InputError(f"The configuration has another network than the model file {path}.")
        self.network.load_state_dict(weights)

    def _log_step(self, values: StepLosses, report: Report) -> None:
        rate = learning_rate(self.config, self.step - 1)
        row = {"step": self.step, "seconds": round(self.seconds, 1), "learning_rate": rate, **asdict(values)}
        _append(self.output / "steps.csv", row)
        parts = "  ".join(f"{k} {v:.4f}" for k, v in asdict(values).items() if k != "total" and math.isfinite(v))
        rate = (self.step - self._logged[0]) / max(1e-9, self.seconds - self._logged[1])
        self._logged = self.step, self.seconds
        skipped = f"  {self.skipped} skipped" if self.skipped else ""
        report(f"step {self.step}/{self.config.steps}  loss {values.total:.4f}  {parts}  {rate:.2f} steps/s{skipped}")

    def _validate_and_log(self, report: Report) -> None:
        result = self._validated = self.validate()
        _append(self.output / "validation.csv", asdict(result))
        names = {"dice": "Dice", "error": "error in voxels", "ncc": "NCC"}
        found = asdict(result)
        parts = [
            f"{title} {found[f'{name}_before']:.3f} -> {found[f'{name}_after']:.3f}"
            for name, title in names.items()
            if math.isfinite(found[f"{name}_after"])
        ]
        report(f"validation at step {self.step}: {', '.join(parts)}, folds {result.folds_percent:.3f} %")
        self._curves.draw(report, last=self.step == self.config.steps)

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


def distributed_place() -> tuple[int, int]:
    """Rank and number of the processes that train together (torchrun), (0, 1) when there is only this one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _device_name(device: torch.device, ranks: int) -> str:
    if device.type == "cuda":
        return f"{ranks} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads() * ranks
    return f"{device.type.upper()}, {threads} thread{'s' if threads > 1 else ''}"


def _quality(pair: TrainingPair, half: torch.Tensor, full: torch.Tensor) -> dict[str, float]:
    """How well the displacements (half and full resolution, own voxels) register the pair."""
    dice = error = math.nan
    if pair.fixed_labels is not None and pair.moving_labels is not None:
        dice = 1.0 - float(losses.soft_dice(warp(pair.moving_labels, half), pair.fixed_labels))
    if pair.displacement is not None:
        error = 2.0 * float(losses.displacement_error(half, pair.displacement, pair.visible).sqrt())
    ncc = 1.0 - float(losses.local_ncc(warp(pair.moving, full), pair.fixed))
    return {"dice": dice, "error": error, "ncc": ncc}


def _means(kind, rows: list):
    """Mean of each number over `rows`, of those that are not NaN."""
    result = {}
    for part in fields(kind):
        values = [v for v in (getattr(row, part.name) for row in rows) if math.isfinite(v)]
        result[part.name] = sum(values) / len(values) if values else math.nan
    return kind(**result)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of the step after `step` done: linear rise, plateau, half a cosine down to zero."""
    optimiser = config.optimiser
    rise = min(1.0, (step + 1) / max(1, optimiser.warm_steps))
    left = min(1.0, (config.steps - step) / max(1, optimiser.decay_steps))
    return optimiser.learning_rate * rise * 0.5 * (1.0 - math.cos(math.pi * left))


def folded_part(displacement: torch.Tensor) -> float:
    """The part of the voxels of u (N, d, *S), in voxels, whose Jacobian determinant is <= 0."""
    if displacement.dim() == 4:  # an image of one slice that nothing moves across
        displacement = F.pad(displacement[:, :, None], (0, 0, 0, 0, 0, 0, 1, 0))
    return float(torch.stack([voxel_determinant(flow) <= 0 for flow in displacement]).float().mean())


def _append(path: Path, row: dict) -> None:
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
