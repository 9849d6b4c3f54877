"""What a registration's memory estimate says beside the peak that the operating system measured.

    python Testing/Benchmarks/memory.py [--refine off default] [--sizes 64 96 128x128x40 ...]

Each registration runs in a process of its own: the peak is its largest resident memory beyond what it held before
the call (images and libraries), by /proc on Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

SIZES = ["48", "64", "80", "96", "112", "128", "160", "176", "192", "64x256x256", "30x512x512", "1x512x512"]


def ball(shape: tuple[int, ...], shift: float, seed: int) -> np.ndarray:
    """A textured body that fills about half of the picture, as int16."""
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) / max(n / 2, 1) for n in shape]
    k, j, i = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((k * 1.15) ** 2 + (j - shift) ** 2 + (i * 1.05) ** 2)
    noise = np.random.default_rng(seed).normal(0, 8, shape).astype(np.float32)
    value = 400 * (radius < 0.9) + 300 * (radius < 0.6) * np.cos(9 * i + 4 * k) ** 2 + noise * (radius < 0.9)
    return value.astype(np.int16)


def measure(size: str, model: str, refine: str, inverse: bool) -> None:
    """One registration in this process; prints its figures as JSON."""
    import SimpleITK  # noqa: F401
    import torch

    from VoxelMorphRegistrationLib.images.grid import Grid
    from VoxelMorphRegistrationLib.images.image import Image
    from VoxelMorphRegistrationLib.refinement import levels
    from VoxelMorphRegistrationLib.registration import device, refining
    from VoxelMorphRegistrationLib.registration.register import register
    from VoxelMorphRegistrationLib.registration.settings import Settings

    torch.set_num_threads(1)
    # Each step takes the memory of the one before: a few show the peak.
    for name, preset in levels.PRESETS.items():
        few = (replace(level, steps=min(level.steps, 3), detail_steps=min(level.detail_steps, 3)) for level in preset)
        levels.PRESETS[name] = tuple(few)
    parts = [int(part) for part in size.split("x")]
    shape = tuple(parts) if len(parts) == 3 else (parts[0],) * 3
    spacing = tuple(180.0 / n if n > 1 else 1.0 for n in shape)
    matrix = np.diag([*spacing[::-1], 1.0])
    grid = Grid(shape, matrix)
    fixed, moving = (
        Image(ball(shape, shift, n), grid, name) for n, (shift, name) in enumerate(((0.0, "f"), (0.06, "m")))
    )
    stages: dict[str, int] = {}
    now = [""]
    estimates: list[int] = []
    for module in (device, refining):
        check = module.check_memory
        module.check_memory = lambda needed, what, check=check: estimates.append(needed) or check(needed, what)

    def status(key: str) -> int:
        with Path("/proc/self/status").open() as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

    def progress(stage: str, _: float) -> bool:
        if now[0]:
            stages[now[0]] = max(stages.get(now[0], 0), status("VmHWM"))
        if stage != now[0]:
            Path("/proc/self/clear_refs").write_text("5")
            now[0] = stage
        return True

    before = status("VmRSS")
    register(fixed, moving, None, Settings(model=model, refinement=refine, device="cpu"), progress, inverse=inverse)
    stages[now[0]] = max(stages.get(now[0], 0), status("VmHWM"))
    megabytes = {stage: round((peak - before) / 1e6) for stage, peak in stages.items()}
    print(json.dumps({"peak": max(megabytes.values()), "estimates": [round(n / 1e6) for n in estimates], **megabytes}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--refine", nargs="+", default=["off", "default"])
    parser.add_argument("--model", default="auto")
    parser.add_argument("--inverse", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.sizes[0], args.model, args.refine[0], args.inverse)
        return
    for refine in args.refine:
        for size in args.sizes:
            command = [sys.executable, __file__, "--one", "--sizes", size, "--refine", refine, "--model", args.model]
            command += ["--inverse"] if args.inverse else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            line = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else done.stderr.strip()[-300:]
            print(f"{size:>12} {refine:<8} {line}", flush=True)


if __name__ == "__main__":
    main()
