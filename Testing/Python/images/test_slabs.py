"""Slabs give what the whole gives, on any number of threads."""

import itertools
import threading

import pytest
import torch
import torch.nn.functional as F

from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.images import slabs as slabs_module
from VoxelMorphRegistrationLib.images.boxes import box_sum, gradient, gradient_box, pooled
from VoxelMorphRegistrationLib.images.slabs import FEW_VOXELS, boxes_of, each, ends_of, rows_of, threads_for, within
from VoxelMorphRegistrationLib.images.smoothing import Smoother, gaussian_smooth

SHAPES = [(23, 18, 70), (22, 81)]


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.rand(shape, generator=generator)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def cut(size):
    return [slice(0, 8), slice(8, 10), slice(10, size)]


def in_rows(function, size):
    return torch.cat([function(rows) for rows in cut(size)], 1)


def in_boxes(function, shape):
    """Of boxes (d, *S) that cover the shape, cut along all axes."""
    out = None
    for box in itertools.product(*(cut(size) for size in shape)):
        part = function(box)
        out = torch.full((len(part), *shape), torch.nan) if out is None else out
        out[(slice(None), *box)] = part
    return out


def direct_gaussian(volume, sigma, axis):
    """Sums over the voxels, the border repeated."""
    reach = torch.arange(-40, 41)
    weights = torch.exp(-0.5 * (reach.double() / sigma) ** 2)
    weights[reach.abs() > 3 * sigma + 1] = 0
    size = volume.shape[axis]
    out = torch.zeros_like(volume, dtype=torch.float64)
    for step, weight in zip(reach.tolist(), (weights / weights.sum()).tolist(), strict=True):
        out += weight * volume.index_select(axis, (torch.arange(size) + step).clamp(0, size - 1)).double()
    return out.float()


# Kernels summed by shifts, in blocks of a band, and as a whole matrix.
@pytest.mark.parametrize("sigma", [0.38, 0.6, 1.3, 5.0])
@pytest.mark.parametrize("shape", [(1, 2, 23, 18, 70), (2, 1, 130, 20), (1, 1, 9, 90, 75)])
def test_gaussian_is_the_sum_over_the_neighbours(random, shape, sigma):
    volume = random(*shape)
    expected = volume
    for axis in range(2, len(shape)):
        expected = direct_gaussian(expected, sigma, axis)
    # The kernel ends at three sigma.
    torch.testing.assert_close(gaussian_smooth(volume, (sigma,) * (len(shape) - 2)), expected, atol=0.012, rtol=0)
    sharp = torch.zeros(shape)
    sharp[..., 0] = 1
    assert float(gaussian_smooth(sharp, (sigma,) * (len(shape) - 2)).min()) >= 0
    ones = torch.ones(shape)
    torch.testing.assert_close(gaussian_smooth(ones, (sigma,) * (len(shape) - 2)), ones)


def test_gaussian_along_some_axes_leaves_the_others(random):
    volume = random(1, 1, 20, 30, 40)
    torch.testing.assert_close(
        gaussian_smooth(volume, (0.0, 1.3, 0.0))[0, 0, 4], gaussian_smooth(volume, (0.0, 1.3, 0.0))[0, 0][4]
    )
    only = gaussian_smooth(volume, (0.0, 0.0, 1.3))
    torch.testing.assert_close(gaussian_smooth(only, (1.3, 1.3, 0.0)), gaussian_smooth(volume, (1.3,) * 3))
    assert gaussian_smooth(volume, (0.0, 0.0, 0.0)).equal(volume)


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_warped_as_the_whole(random, shape):
    volume = random(2, *(n + 6 for n in shape))
    # Beyond the border on all sides.
    flow = 20 * (random(len(shape), *shape) - 0.5)
    expected = sampling.warp(volume[None], flow[None], 3)[0]

    def warped(box):
        return sampling.warp_box(volume, within(flow, box), tuple(side.start + 3 for side in box))

    found = in_boxes(warped, shape)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_where_a_displacement_is_not_a_number_the_rest_is_warped_as_ever(random, shape):
    """A network that gives such numbers ends no training."""
    volume, flow = random(2, *shape), random(len(shape), *shape)
    expected = sampling.warp_box(volume, flow, (0,) * len(shape))
    spot = (slice(None), slice(2, 4), *[slice(1, 3)] * (len(shape) - 1))
    spoilt = flow.clone()
    spoilt[spot] = torch.nan
    found = sampling.warp_box(volume, spoilt, (0,) * len(shape))
    expected[spot], found[spot] = 0.0, 0.0
    torch.testing.assert_close(found, expected)
    assert sampling.warp_box(volume, torch.full_like(flow, torch.nan), (0,) * len(shape)).shape == volume.shape


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_of_a_grid_twice_as_fine_are_linear_between_the_voxels(random, shape):
    volume = random(2, *shape)
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    expected = F.interpolate(volume[None], scale_factor=2.0, mode=mode, align_corners=False)[0]
    out = torch.empty_like(expected)
    for box in itertools.product(*(cut(size) for size in shape)):
        finer = tuple(slice(2 * side.start, 2 * side.stop) for side in box)
        within(out, finer).copy_(sampling.doubled_part(volume, *ends_of(box)))
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_small_moves_compose_affine_maps_exactly_and_stay_between_neighbours(random, shape):
    places = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
    matrix = 0.2 * (random(len(shape), len(shape)) - 0.5)
    move = 0.5 * (random(len(shape), *shape) - 0.5)
    field = torch.einsum("ab,b...->a...", matrix, places)
    found = in_rows(lambda rows: sampling.moved_rows(field, move[:, rows], rows), shape[0])
    inner = (slice(None), *[slice(1, -1)] * len(shape))
    expected = move + torch.einsum("ab,b...->a...", matrix, places + move)
    torch.testing.assert_close(found[inner], expected[inner], atol=1e-5, rtol=0)
    # No value beyond those around it, at the border either: nothing rings.
    rough = random(*found.shape)
    found = in_rows(lambda rows: sampling.moved_rows(rough, move[:, rows], rows), shape[0]) - move
    around = [3] * len(shape)
    pool = F.max_pool3d if len(shape) == 3 else F.max_pool2d
    assert bool(
        (found <= pool(rough, around, 1, 1) + 1e-5).all() and (found >= -pool(-rough, around, 1, 1) - 1e-5).all()
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_of_the_gradient_are_those_of_the_whole(random, shape):
    volume = random(*shape)
    found = in_boxes(lambda box: torch.stack(gradient_box(volume, box)), shape)
    torch.testing.assert_close(found, gradient(volume))


@pytest.mark.parametrize("ratio", [1, 2, 8])
@pytest.mark.parametrize("shape", [(2, 24, 16, 8), (1, 9, 11, 5), (3, 17, 20)])
def test_blocks_are_averaged_and_the_last_ones_filled_up(random, shape, ratio):
    volumes = random(*shape)
    missing = [part for n in shape[:0:-1] for part in (0, -n % ratio)]
    pool = F.avg_pool3d if len(shape) == 4 else F.avg_pool2d
    torch.testing.assert_close(pooled(volumes, ratio), pool(F.pad(volumes, missing), ratio))


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
def test_box_sums_are_cut_at_the_border(random, radius):
    volumes = random(2, 40, 7, 30)
    kernel = torch.ones(1, 1, *[2 * radius + 1] * 3)
    expected = F.conv3d(volumes[:, None], kernel, padding=radius)[:, 0]
    torch.testing.assert_close(box_sum(volumes, radius), expected, atol=1e-4, rtol=1e-5)


def test_threads_give_the_same_numbers_and_leave_the_callers_setting(random, threads):
    volume = random(1, 3, 90, 70, 60)
    found = []
    for number in (1, 3, 2):
        threads(number)
        found.append(gaussian_smooth(volume, (1.3,) * 3))
        assert torch.get_num_threads() == number
    assert found[0].equal(found[1]) and found[0].equal(found[2])


def test_slabs_cover_all_rows_in_order_whatever_the_threads(threads):
    slabs = rows_of((103, 100, 100), torch.device("cpu"), 8)
    assert [rows.start for rows in slabs[1:]] == [rows.stop for rows in slabs[:-1]]
    assert slabs[0].start == 0 and slabs[-1].stop == 103 and all(rows.start % 8 == 0 for rows in slabs)
    threads(2)
    used = each(lambda rows: (rows, torch.get_num_threads(), threading.get_ident()), slabs)
    assert [rows for rows, _, _ in used] == slabs and {number for _, number, _ in used} == {1}
    assert threading.get_ident() not in {thread for _, _, thread in used}


def test_an_error_in_a_slab_reaches_the_caller(threads):
    threads(2)

    def fail(rows):
        raise ValueError(f"row {rows.start}")

    with pytest.raises(ValueError, match="row 0"):
        each(fail, [slice(0, 1), slice(1, 2)])


@pytest.mark.parametrize("sigma", [0.5, 1.3])
@pytest.mark.parametrize("shape", [(40, 90, 80), (60, 90)])
def test_what_lies_in_a_box_is_smoothed_as_in_the_whole(random, shape, sigma):
    """There is nothing around the box, but for the border of the volume, which is repeated."""
    smoother = Smoother(shape, (sigma,) * len(shape), torch.device("cpu"))
    for side in ((slice(2, 85), slice(3, 77)), (slice(0, 90), slice(0, 30)), (slice(40, 90), slice(75, 80))):
        box = (slice(5, 30), *side[: len(shape) - 1])
        volume = torch.zeros(shape)
        volume[box] = random(*(part.stop - part.start for part in box))
        rough, smooth = torch.zeros(shape), torch.zeros(shape)
        smoother.across(volume[box][None], box, rough[box][None])
        wide = (slice(0, shape[0]), *box[1:])
        smoother.along(rough[None], wide, smooth[wide][None])
        expected = gaussian_smooth(volume[None, None], (sigma,) * len(shape))[0, 0]
        torch.testing.assert_close(smooth[wide], expected[wide])


def test_boxes_hold_all_that_is_near_and_little_else():
    places = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in (100, 120, 110)), indexing="ij"))
    far = (places - torch.tensor([50.0, 60, 55])[:, None, None, None]).norm(dim=0)
    boxes = boxes_of(far.shape, far.device, far < 40, 6, 50_000)
    covered = torch.zeros(far.shape)
    for box in boxes:
        covered[box] += 1
    assert covered.max() == 1 and covered[far < 45].min() == 1
    assert covered.mean() < 0.5 < float((far < 46).float().mean()) / 0.5 * 0.9
    assert boxes_of(far.shape, far.device, far < 0, 6) == []
    whole = boxes_of((8, 9), torch.device("cpu"))
    assert whole == [(slice(0, 8), slice(0, 9))]


def test_an_error_in_a_slab_ends_the_others(threads):
    threads(2)
    done = []

    def work(number):
        if number == 0:
            raise ValueError("of the first")
        done.append(number)
        threading.Event().wait(0.01)

    with pytest.raises(ValueError, match="of the first"):
        each(work, range(100))
    assert len(done) < 90


def test_an_interrupted_caller_leaves_no_slabs_behind(threads, monkeypatch):
    threads(2)
    done, started = [], []

    class Interrupted:
        """A pool at whose first task the user interrupts."""

        def submit(self, work):
            started.append(threading.Thread(target=work))
            started[-1].start()
            return self

        def result(self):
            raise KeyboardInterrupt

    def work(number):
        done.append(number)
        threading.Event().wait(0.01)

    monkeypatch.setattr(slabs_module, "workers", lambda _: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        each(work, range(100))
    for thread in started:
        thread.join()
    assert len(done) < 90


def test_few_voxels_are_worked_on_by_one_thread(threads):
    threads(2)
    with threads_for(FEW_VOXELS - 1):
        assert torch.get_num_threads() == 1
    with threads_for(FEW_VOXELS):
        assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), threads_for(1):
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("size", range(3, 60))
def test_few_slabs_are_an_even_number_and_cover_all(size):
    slabs = rows_of((size, 100), torch.device("cpu"), voxels=1000)
    assert [row for slab in slabs for row in range(slab.start, slab.stop)] == list(range(size))
    # Slabs of equal length may need one less.
    assert len(slabs) == 1 or len(slabs) % 2 == 0 or size % len(slabs) == 0
