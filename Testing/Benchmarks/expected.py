"""The units of registration/expected.py: what alignment, refinement, passes and the rest take, in seconds of the probe.

    python Testing/Benchmarks/expected.py [--sizes 64 96 128]

Registers a textured ball, bent smoothly, at several sizes with one thread, and prints processor seconds a stage divided
by those of the probe, and by millions of voxels where that is the unit.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from VoxelMorphRegistrationLib import Grid, Image, Settings, register
from VoxelMorphRegistrationLib.images.sampling import gaussian_smooth
from VoxelMorphRegistrationLib.registration.expected import PROBE_ROUNDS, PROBE_SIZE, expected_seconds, probe_seconds


def bent_pair(size: int) -> tuple[Image, Image]:
    """A ball of smooth random texture that fills six tenths of the volume, and the same one bent by up to 6 mm."""
    grid = Grid((size, size, size), np.diag([200 / size, 200 / size, 200 / size, 1.0]))
    noise = torch.from_numpy(np.random.default_rng(1).random((size, size, size), dtype=np.float32))
    texture = gaussian_smooth(noise[None, None], (1.5,) * 3)[0, 0].numpy()
    positions = grid.positions() - grid.center_ras
    ball = 1.0 / (1.0 + np.exp((np.linalg.norm(positions, axis=-1) - 104.0) / 2.0))
    fixed = Image((100 * ball * (0.4 + texture)).astype(np.float32), grid, "fixed")
    waves = 6.0 * np.sin(2 * np.pi * positions[..., [1, 2, 0]] / 150.0)
    # Voxels of the fixed image, read where the waves point to.
    index = np.clip(np.rint((grid.positions() + waves) / grid.spacing).astype(int), 0, size - 1)
    return fixed, Image(fixed.array[index[..., 2], index[..., 1], index[..., 0]], grid, "moving")


def processor_seconds(pair: tuple[Image, Image], settings: Settings) -> dict[str, float]:
    """Of each stage, and the part of the fixed image that is anatomy ("part")."""
    spent: dict[str, float] = {}
    now = {"stage": "", "time": time.process_time()}

    def progress(stage: str, _: float) -> None:
        current = time.process_time()
        if now["stage"]:
            spent[str(now["stage"])] = spent.get(str(now["stage"]), 0.0) + current - float(now["time"])
        now.update(stage=stage, time=current)

    report = register(*pair, settings=settings, progress=progress).report
    spent["part"] = report.folding["inside"]["voxels"] / report.folding["volume"]["voxels"]
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    probe_seconds()
    # As many rounds; the library uses the best of them by the clock.
    probe = time.process_time() - start
    print(f"probe: {probe:.3f} CPU s for {PROBE_ROUNDS} rounds of {PROBE_SIZE} voxels a side")
    for size in arguments.sizes:
        pair = bent_pair(size)
        millions = size**3 / 1e6
        for refinement in ("coarse", "fast", "default", "accurate"):
            spent = processor_seconds(pair, Settings(device="cpu", refinement=refinement))
            refined = spent["refining"] / probe / (millions * spent["part"])
            rest = (spent["warping"] + spent["measuring"]) / probe / millions
            told = expected_seconds(Settings(refinement=refinement), pair[0].grid, probe) / probe
            whole = sum(value for name, value in spent.items() if name != "part") / probe
            print(
                f"{size:4d}  {refinement:8s}  alignment {spent['aligning'] / probe:6.1f}  "
                f"refined {refined:6.1f} a million"
                f"  rest {rest:5.1f} a million  whole {whole:6.1f}, told {told:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
