"""Steps per second of the trainer, beside the least that PyTorch needs for the same network.

    python Testing/Benchmarks/training_speed.py CONFIG [--data DIR] [--scans DIR] [--device cpu|cuda] [--steps N]

The lower bound is the bare network on tensors that are already there: forward pass, backward pass from the sum of its
output, step of Adam; in the same precision and memory layout, with the same sizes in the same order. What the trainer
needs beyond it are the drawing of pairs, passes before the one that learns, the integration, the warps and the
losses. Both are measured alternately in one run, after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from VoxelMorphRegistrationLib.training.config import load_config, with_data, with_scans
from VoxelMorphRegistrationLib.training.networks import network_of, whole_of
from VoxelMorphRegistrationLib.training.pairs import TRAINING_STREAM, StepSizes
from VoxelMorphRegistrationLib.training.trainer import Trainer

WARM_UP = 4


def bare_step(network, optimiser, config, shape, device, memory_format) -> None:
    images = [torch.rand(1, 1, *shape, device=device).to(memory_format=memory_format) for _ in range(2)]
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
        flow = network(*images)
    optimiser.zero_grad(set_to_none=True)
    flow.float().sum().backward()
    optimiser.step()


def timed(work, device: str) -> tuple[float, float]:
    """Wall and CPU seconds of `work`."""
    start = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", help="training configuration (TOML)")
    parser.add_argument("--data", help="folder of the training data")
    parser.add_argument("--scans", help="folder of the scans, where the configuration uses some")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    config = load_config(args.config)
    config = with_data(config, args.data) if args.data else config
    config = with_scans(config, args.scans) if args.scans else config
    source = config.pairs(Path(args.config).parent)
    sizes = StepSizes(config.shape, config.smallest, config.stride)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder), args.device, source)
        network = network_of(config).to(args.device, memory_format=trainer.memory_format)
        model = whole_of(config, network)
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
        totals = {"trainer": [0.0, 0.0], "network alone": [0.0, 0.0]}
        for number in range(WARM_UP + args.steps):
            shape = sizes.of(config.seed, TRAINING_STREAM, number)
            works = {
                "trainer": trainer.train_step,
                "network alone": lambda s=shape: bare_step(
                    model, optimiser, config, s, args.device, trainer.memory_format
                ),
            }
            for name, work in works.items():
                seconds = timed(work, args.device)
                if number >= WARM_UP:
                    totals[name] = [a + b for a, b in zip(totals[name], seconds, strict=True)]
    result = {
        name: {"steps_per_second": args.steps / wall, "cpu_seconds_per_step": cpu / args.steps}
        for name, (wall, cpu) in totals.items()
    }
    ratio = totals["trainer"][0] / totals["network alone"][0]
    print(json.dumps({"device": args.device, "threads": torch.get_num_threads(), **result, "ratio": ratio}, indent=2))


if __name__ == "__main__":
    main()
