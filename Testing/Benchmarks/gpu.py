"""Everything that a GPU is needed for, in one run of about five minutes, as one JSON.

    python Testing/Benchmarks/gpu.py -o gpu.json [--device cuda] [--size 160 192 224] [--repeats 3]

checks: results on the device beside those on the CPU, each with the largest difference allowed; network: a forward pass
of the shipped general model; refinement: `refine` on a textured ball, bent by a known warp, by stages, and its error;
command: `voxelmorph register` as a process of its own; training: steps of the trainer a second. With `--device cpu
--size 48 48 48` it tries itself out in a minute. Ends with 1 where a check fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resources import COMMAND

from VoxelMorphRegistrationLib import Grid, Image, write_image
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.images.boxes import box_sum
from VoxelMorphRegistrationLib.images.slabs import boxes_of, within
from VoxelMorphRegistrationLib.networks.model import load_model
from VoxelMorphRegistrationLib.refinement.descriptors import mind_ssc
from VoxelMorphRegistrationLib.refinement.levels import PRESETS, Options
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.refinement.refine import refine
from VoxelMorphRegistrationLib.training.config import config_from_dict
from VoxelMorphRegistrationLib.training.trainer import Trainer

# How far apart results of two devices may lie: of single operations in their own unit, of whole refinements in voxels.
OPERATION, REFINEMENT_MEAN = 2e-3, 0.05
CHECK_SIZE = 48


def bent_ball(shape: tuple[int, ...], seed: int = 0) -> tuple[Image, Image, DisplacementField]:
    """A textured ball, moving and, bent by up to 4 voxels, fixed, and the truth: fixed(x) = moving(x + u(x))."""
    generator = torch.Generator().manual_seed(seed)
    grid = Grid(shape, np.eye(4))
    noise = torch.rand((1, 1, *shape), generator=generator)
    texture = sampling.gaussian_smooth(noise, (1.5,) * 3)[0, 0]
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    places = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij"))
    ball = torch.sigmoid((0.8 - places.norm(dim=0)) * 40)
    moving = (texture + 0.3) * ball
    flow = torch.stack([4.0 * torch.sin(3.0 * places[(n + 1) % 3] + n) for n in range(3)]) * ball
    fixed = sampling.warp(moving[None, None], flow[None])[0, 0]
    truth = DisplacementField.from_voxels(flow.numpy(), grid)
    return Image(fixed.numpy(), grid, "fixed"), Image(moving.numpy(), grid, "moving"), truth


def pair_of(fixed: Image, moving: Image) -> Pair:
    return Pair(fixed, moving, np.eye(4), ((0.0, 0.8), (0.0, 0.8)), fixed.array > 0.05)


# --- checks --------------------------------------------------------------------------------------------------------


def checks(device: str) -> list[dict[str, Any]]:
    """Operations and whole refinements on the device beside the CPU."""
    generator = torch.Generator().manual_seed(1)
    volume = torch.rand((2, 40, 50, 60), generator=generator)
    flow = 3 * torch.randn((3, 40, 50, 60), generator=generator)
    operations: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "Gaussian": lambda v, f: sampling.gaussian_smooth(v[None], (1.3, 0.5, 4.0)),
        "box sums": lambda v, f: box_sum(v, 3),
        "warp": lambda v, f: torch.cat(
            [sampling.warp_box(v, within(f, box), (box[0].start, 0, 0)) for box in boxes_of(v.shape[1:], v.device)], 1
        ),
        "small moves": lambda v, f: sampling.moved_rows(f, 0.1 * f, slice(0, 40)),
        "twice as fine": lambda v, f: sampling.doubled_part(v, [0, 0, 0], list(v.shape[1:])),
        "descriptors": lambda v, f: mind_ssc(v[0]),
    }
    found = []
    for name, operation in operations.items():
        expected, other = (operation(volume.to(d), flow.to(d)).cpu() for d in ("cpu", device))
        found.append(_check(name, float((expected - other).abs().max()), OPERATION))
    fixed, moving, _ = bent_ball((CHECK_SIZE,) * 3)
    for similarity in ("lncc", "mind", "mi", "mse"):
        options = Options("default", similarity)
        fields = [refine(pair_of(fixed, moving), None, options, device=d).field for d in ("cpu", device)]
        apart = np.linalg.norm(np.subtract(*(field.on_grid(fixed.grid).displacement_ras for field in fields)), axis=-1)
        found.append(_check(f"refinement, {similarity}", float(apart[fixed.array > 0.05].mean()), REFINEMENT_MEAN))
    return found


def _check(name: str, difference: float, allowed: float) -> dict[str, Any]:
    return {"name": name, "difference": difference, "allowed": allowed, "passed": difference <= allowed}


# --- what it costs -------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], device: str, repeats: int) -> dict[str, float]:
    """Seconds by the clock of the first call and the least of `repeats` more, and the device's peak memory in MB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    found = {"first_s": seconds[0], "best_s": min(seconds[1:])}
    if device == "cuda":
        found["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def network(shape: tuple[int, ...], device: str, repeats: int) -> dict[str, float]:
    model = load_model("general-3d", device, "auto")
    stride = model.card.stride
    size = [-(-n // stride) * stride for n in shape]
    images = torch.rand((2, 1, 1, *size), device=device)
    return timed(lambda: model.flow(*images), device, repeats)


def refinement(shape: tuple[int, ...], device: str, repeats: int) -> dict[str, Any]:
    fixed, moving, truth = bent_ball(shape)
    pair, inside = pair_of(fixed, moving), fixed.array > 0.05
    found: dict[str, Any] = {}
    for preset in ("coarse", "fast", "default"):
        if preset not in PRESETS:
            continue
        results = []
        found[preset] = timed(
            lambda results=results, preset=preset: results.append(
                refine(pair, None, Options(preset, "lncc"), device=device)
            ),
            device,
            repeats,
        )
        result = results[-1]
        error = np.linalg.norm(result.field.on_grid(fixed.grid).displacement_ras - truth.displacement_ras, axis=-1)
        found[preset] |= {"error_voxels": float(error[inside].mean()), "steps": list(result.steps)}
    before = np.linalg.norm(truth.displacement_ras, axis=-1)
    return found | {"error_before_voxels": float(before[inside].mean())}


def command(shape: tuple[int, ...], device: str) -> dict[str, Any]:
    """The whole of `voxelmorph register`, start-up, reading and writing included."""
    fixed, moving, _ = bent_ball(shape)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("fixed.nii.gz", "moving.nii.gz")]
        for image, file in zip((fixed, moving), files, strict=True):
            write_image(image, file)
        output = Path(folder) / "output"
        words = [*COMMAND, "register", *map(str, files), "-o", str(output), "--device", device, "--model", "none"]
        start = time.perf_counter()
        subprocess.run([*words, "--refine", "default"], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        files_mb = sum(file.stat().st_size for file in output.iterdir()) / 1e6
    return {"wall_s": seconds, "stages_s": report["seconds"], "files_mb": files_mb}


def training(shape: tuple[int, ...], device: str, steps: int) -> dict[str, float]:
    half = [max(32, n // 2 // 16 * 16) for n in shape]
    network = {"encoder": [16, 32, 32, 32], "decoder": [32, 32, 32, 32]}
    with tempfile.TemporaryDirectory() as folder:
        config = config_from_dict({"name": "speed", "shape": half, "steps": steps + 2, "network": network})
        trainer = Trainer(config, Path(folder), device)
        for _ in range(2):
            trainer.train_step()
        found = timed(lambda: [trainer.train_step() for _ in range(steps)], device, 1)
    return {"steps_per_second": steps / found["best_s"], **found}


# --- command -------------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {"device": device, "name": name, "torch": torch.__version__, "threads": torch.get_num_threads()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="JSON")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", type=int, nargs=3, default=[160, 192, 224], metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--training-steps", type=int, default=20, metavar="N")
    args = parser.parse_args(arguments)
    shape = tuple(args.size)
    parts: dict[str, Callable[[], Any]] = {
        "checks": lambda: checks(args.device),
        "network": lambda: network(shape, args.device, args.repeats),
        "refinement": lambda: refinement(shape, args.device, args.repeats),
        "command": lambda: command(shape, args.device),
        "training": lambda: training(shape, args.device, args.training_steps),
    }
    found: dict[str, Any] = {"machine": machine(args.device), "size": list(shape)}
    for name, part in parts.items():
        start = time.perf_counter()
        found[name] = part()
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
        # What there is, should a later part fail.
        args.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    failed = [check["name"] for check in found["checks"] if not check["passed"]]
    if failed:
        print(f"The device disagrees with the CPU: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
