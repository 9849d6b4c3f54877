"""Programs of TorchScript that stand in for functions of tensors."""

import threading
import warnings

import numpy as np
import pytest
import torch

from VoxelMorphRegistrationLib.images import boxes, sampling, smoothing
from VoxelMorphRegistrationLib.images import scripted as scripted_module
from VoxelMorphRegistrationLib.images.scripted import scripted
from VoxelMorphRegistrationLib.refinement import steps, terms

LOW, HIGH = [3, 0, 5], [13, 12, 17]
BOX = [high - low for low, high in zip(LOW, HIGH, strict=True)]


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(4)
    return lambda *shape: torch.rand(shape, generator=generator)


def arguments(random):
    """By function, what it is called with."""
    whole = 16, 15, 18
    band = smoothing.gaussian_band(18, 1.3, 4)
    kernels = [[16, 15, 18], [1, 0, 4], [[], [], []], [band[:16, :16], band[:15, :15], band]]
    counted = random(3, *whole)
    return {
        boxes._box_sum_rows: (counted, 2, 9, 3),
        boxes._pooled: (counted, 2),
        sampling._warp_box: (random(2, 30, 30, 30), random(3, *whole), [5, 5, 5]),
        scripted(sampling.doubled_part): (counted, LOW, HIGH),
        sampling._moved_rows: (counted, 0.3 * random(3, 6, 15, 18), 4, 10),
        smoothing._across: (random(2, *BOX), torch.zeros(2, *BOX), LOW, [0, 0, 0], BOX, *kernels),
        smoothing._along: (counted, torch.zeros(3, *BOX), LOW, HIGH, 4, smoothing.gaussian_band(16, 1.3, 4)),
        steps._warp: (counted, random(2, 40, 40, 40), torch.zeros(2, 32, 30, 36), LOW, HIGH, 2, 4),
        steps._pulled: (random(2, *whole), random(2, *BOX), LOW, HIGH, 2),
        steps._cut: (counted, 0.4, torch.tensor(0.7)),
        steps._window_force: (random(2, *BOX), [random(3, *whole), random(3, *whole)], LOW, HIGH),
        steps._solved: (random(3, 3, *BOX), random(3, *BOX), 0.5),
        terms._of_windows: (counted, random(3, 7, 15, 18), random(7, 15, 18), torch.zeros(3, 7, 15, 18), 2, 9, 2, 1e-7),
        terms._slope: (random(*whole), random(*whole), [counted, random(3, 4, 4, 5)], [1, 4], LOW, HIGH),
    }


def test_a_program_gives_the_numbers_of_its_function(random):
    """To the last bit, also in what it writes into tensors."""
    for program, given in arguments(random).items():
        twins = tuple(one.clone() if isinstance(one, torch.Tensor) else one for one in given)
        found, expected = program(*given), program.__wrapped__(*twins)
        written = [pair for pair in zip(given, twins, strict=True) if isinstance(pair[0], torch.Tensor)]
        if found is not None:
            written.append((found, expected))
        for own, other in written:
            assert torch.equal(own, other), program.__name__


def test_threads_that_call_it_first_at_the_same_time_all_get_its_answer():
    def doubled(values: torch.Tensor) -> torch.Tensor:
        return values * 2.0

    program, found = scripted(doubled), []
    meet = threading.Barrier(8)

    def call() -> None:
        meet.wait()
        found.append(program(torch.ones(3)))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(torch.equal(one, torch.full((3,), 2.0)) for one in found)


@pytest.mark.parametrize(("device", "translated"), [("meta", True), ("cpu", False)])
def test_elsewhere_the_function_itself_is_called(monkeypatch, device, translated):
    """TorchScript would make a program of its own for each GPU, and does not know each Python."""
    monkeypatch.setattr(scripted_module, "_TRANSLATED", translated)
    called = []

    def told(values: torch.Tensor) -> torch.Tensor:
        called.append(values.device.type)
        return values

    scripted(told)(torch.empty(2, device=device))
    assert called == [device]


def test_without_source_the_function_itself_is_called():
    """As in an application that brings compiled files only."""
    place: dict = {"torch": torch, "__name__": "frozen"}
    exec("def doubled(values: torch.Tensor) -> torch.Tensor:\n    return values * 2.0", place)
    assert torch.equal(scripted(place["doubled"])(torch.ones(3)), torch.full((3,), 2.0))


def test_whoever_makes_errors_of_warnings_gets_its_answer():
    """TorchScript is deprecated."""

    def doubled(values: torch.Tensor) -> torch.Tensor:
        return values * 2.0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(scripted(doubled)(torch.ones(3)), torch.full((3,), 2.0))


def test_programs_of_networks_are_watched_as_before(random):
    """PyTorch is asked not to watch the first run of these ones alone."""
    former = torch._C._jit_set_profiling_mode(True)
    try:
        scripted(sampling.doubled_part)(random(3, 16, 15, 18), LOW, HIGH)
        assert torch._C._jit_set_profiling_mode(True)
    finally:
        torch._C._jit_set_profiling_mode(former)


def test_of_a_long_axis_no_smoothed_voxels_are_kept():
    """Those of 4,000 would be 128 MB, for each width."""
    kept = sampling._smoothed_voxels.cache_info().currsize
    sampling._linear_band(np.arange(3.0), 600, 1.7)
    assert sampling._smoothed_voxels.cache_info().currsize == kept
