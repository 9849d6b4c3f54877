"""The comparison with peers: exact truth, one convention for all displacements, rows for whatever happens."""

import itertools
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import cases
import compare
import compare_plot
import compare_rows
import peer_programs
import peers
from resources import BenchmarkError, Cost, TimedOut, run_measured
from scores import score

from grids import blobs, make_grid
from small_models import save_centroid_model
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.images.image import Image

GRID = make_grid((30, 26, 14), (1.2, 1.5, 2.4), (20.0, -15.0, 35.0), left_handed=True, center=(12, -30, 7))


def warp_of(grid, largest=5.0, seed=3):
    rng = np.random.default_rng(seed)
    points = grid.positions().reshape(-1, 3)
    return cases.random_warp(rng, grid, points, largest)


# --- known warps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [GRID, make_grid((40, 36, 1), (1.2, 1.5, 3.0), (20.0, 10.0, 5.0))], ids=["3D", "2D"])
def test_known_warp_moves_as_far_as_asked_and_its_inverse_is_exact(grid):
    warp, points = warp_of(grid), grid.positions().reshape(-1, 3)
    assert warp.largest(points) == pytest.approx(5.0, abs=1e-6)
    assert np.abs(warp.forward(warp.backward(points)) - points).max() < 1e-9
    field = DisplacementField((warp.backward(points) - points).reshape(*grid.shape, 3), grid)
    assert field.folding().any_corner_count == 0
    if grid.dimension == 2:
        assert np.abs((warp.forward(points) - points) @ grid.directions[:, 2]).max() < 1e-9


def test_steepest_wave_is_inverted():
    wave = cases.Wave(np.array([9.9, 0, 0]), np.array([0.1, 0, 0]), 0.3)
    points = np.stack([np.linspace(-100, 100, 5001), np.zeros(5001), np.zeros(5001)], -1)
    assert np.abs(wave.backward(wave.forward(points)) - points).max() < 1e-6


def test_motion_too_large_for_the_image_is_refused():
    with pytest.raises(BenchmarkError, match="too steep"):
        warp_of(GRID, largest=60.0)


def test_truth_at_the_points_agrees_with_direct_evaluation(monkeypatch):
    made = []
    monkeypatch.setattr(cases, "random_warp", lambda *args, make=cases.random_warp: made.append(make(*args)) or made[0])
    image = blobs(GRID)
    pair = cases.known_pair(image, image, None, np.random.default_rng(1), 5.0)
    assert len(pair.fixed_points) > 100
    for fixed, moving in zip(pair.fixed_points[:100], pair.moving_points[:100], strict=True):
        x, y, z = moving
        for wave in made[0].waves:
            rise = np.sin(x * wave.wave[0] + y * wave.wave[1] + z * wave.wave[2] + wave.phase)
            x, y, z = x + rise * wave.amplitude[0], y + rise * wave.amplitude[1], z + rise * wave.amplitude[2]
        assert np.abs(np.array([x, y, z]) - fixed).max() < 1e-3


def test_warped_images_hold_what_lies_at_the_warped_positions():
    warp = warp_of(GRID)
    inner = GRID.cropped((9, 7, 4), (12, 12, 6))
    ramp = Image((GRID.positions() @ [0.4, -0.7, 0.3]).astype(np.float32), GRID)
    found = cases.sample_linear(ramp, inner, warp).array
    # A linear function is interpolated without error.
    assert np.abs(found - warp.forward(inner.positions()) @ [0.4, -0.7, 0.3]).max() < 1e-3
    voxels = GRID.to_ijk(warp.forward(inner.positions()))
    columns = Image(np.broadcast_to(np.arange(30, dtype=np.int32), GRID.shape), GRID)
    assert np.array_equal(cases.sample_nearest(columns, inner, warp).array, np.rint(voxels[..., 0]).astype(int))


def test_intensities_change_monotonically_up_to_noise_and_bias():
    image = Image(np.linspace(-1000, 1500, GRID.voxel_count, dtype=np.float32).reshape(GRID.shape), GRID)
    changed = cases.changed_intensity(image, np.random.default_rng(0), noise=0.0).array
    assert np.abs(changed - image.array).max() > 50
    inside = (image.array > -990) & (image.array < 1490)
    assert np.corrcoef(changed[inside], image.array[inside])[0, 1] > 0.95


def known_case(seed, largest=5.0, labels=True):
    image = blobs(GRID)
    maps = Image((image.array > 60).astype(np.int32), GRID, "blobs") if labels else None
    return cases.known_pair(image, image, maps, cases.generator(seed, "known"), largest)


def test_same_seed_gives_the_same_pair_and_another_seed_another():
    first, again, other = known_case(1), known_case(1), known_case(2)
    assert np.array_equal(first.moving.array, again.moving.array)
    assert np.array_equal(first.moving_points, again.moving_points)
    assert np.abs(first.moving.array - other.moving.array).max() > 1


def test_scores_of_the_truth_and_of_no_motion():
    pair, warp = known_case(1), None
    rng = cases.generator(1, "known")
    voxels = np.argwhere(pair.labels["blobs"][0].array > 0)
    count = min(3 * cases.POINTS, len(voxels))
    chosen = voxels[rng.choice(len(voxels), count, replace=False)][:, ::-1]
    warp = cases.random_warp(rng, GRID, GRID.to_ras(chosen + rng.uniform(-0.5, 0.5, chosen.shape)), 5.0)
    truth = DisplacementField((warp.backward(GRID.positions()) - GRID.positions()), GRID)
    before, after = score(pair, DisplacementField.identity(GRID)), score(pair, truth)
    assert before.tre_mm == pytest.approx(np.linalg.norm(pair.fixed_points - pair.moving_points, axis=1).mean())
    # What is left comes from the field between its voxels, and from labels sampled twice.
    assert after.tre_mm < 0.1 and after.dice > 0.93 > before.dice
    assert after.folds_volume_corner == before.folds == before.ndv_percent == 0 and after.hd95_mm < before.hd95_mm


def test_scores_count_folds_inside_and_in_the_volume():
    grid = make_grid((24, 24, 24))
    image = np.zeros(grid.shape, np.float32)
    image[:, :, 12:] = 1
    u = np.zeros((*grid.shape, 3), np.float32)
    u[4, 4, 4, 0], u[4, 4, 20, 0] = 1.5, 1.5
    found = score(cases.Pair(Image(image, grid), Image(image, grid)), DisplacementField(u, grid))
    # One moved voxel: its neighbours' central difference is +-0.75, its own one-sided ones are +-1.5.
    assert (found.folds, found.folds_volume) == (0, 0)
    assert 0 < found.folds_corner < found.folds_volume_corner == 2 * found.folds_corner
    # Its cells are turned inside out by half of a voxel's move or less; nothing else is.
    assert 0 < found.ndv_percent < 100.0 * 8 / np.count_nonzero(cases.foreground(Image(image, grid)))
    assert found.dice is None and found.tre_mm is None


# --- the run -------------------------------------------------------------------------------------------------------


@dataclass
class Fake:
    """A method whose command and field are given."""

    name: str = "fake"
    has_linear_stage: bool = False
    code: str = "pass"
    find: object = None
    advice: str | None = None
    seen: list | None = None

    def missing(self):
        return self.advice

    def unsuitable(self, case):
        return None

    def command(self, job):
        if self.seen is not None:
            self.seen.append(job)
        return [sys.executable, "-c", self.code]

    def field(self, job):
        return self.find(job) if self.find else DisplacementField.identity(job.grid)


def run(monkeypatch, folder, fakes, *options, group="convention"):
    """Rows of a comparison of some methods, by method; (rows, told rows)."""
    for fake in fakes:
        monkeypatch.setitem(peers.OTHERS, fake.name, fake)
    names = ["--peers", ",".join(fake.name for fake in fakes)] if fakes else []
    arguments = ["-o", str(folder), "--data", str(folder), "--cases", group, *names, *options]
    args = compare.parser().parse_args(arguments)
    told = []
    rows = compare.compare(args, args.seed or 0, told.append)
    return rows, told


def only(monkeypatch, build, **facts):
    """A group "one" with a single case."""
    case = cases.Case("one", "one", build, **facts)
    monkeypatch.setitem(cases.GROUPS, "one", lambda data, seed, warps: [case])


@pytest.fixture
def in_process(monkeypatch):
    """Commands in Python are called, not started: a start costs more than what they do with small images."""

    def called(command, log, limit_s=None, environment=None):
        python, *words = command
        assert python == sys.executable
        if words[:2] == ["-m", "VoxelMorphRegistrationLib"]:
            assert main(words[2:]) == 0
        elif words[0] == str(peers.PROGRAMS):
            peer_programs.main(words[1:])
        else:
            assert words == ["-c", "pass"]
        return Cost(1.0, 1.0, 100.0)

    monkeypatch.setattr(compare, "run_measured", called)


@pytest.mark.parametrize("peer", ["demons", "syn-mi"])
def test_displacements_of_a_peer_undo_a_known_shift(peer, tmp_path, request):
    if peer == "syn-mi":
        request.getfixturevalue("in_process")
    rows = compare.compare(
        compare.parser().parse_args(["-o", str(tmp_path), "--cases", "convention", "--peers", peer]),
        0,
        lambda row: None,
    )
    assert [(row.case, row.method, row.status) for row in rows] == [
        (f"convention {dimension}D", method, "done") for dimension in (3, 2) for method in ("before", peer)
    ]
    assert compare.wrong_conventions(rows) == []
    assert all(row.cpu_s > 0 and row.peak_mb > 1 for row in rows if row.method == peer)


@pytest.mark.parametrize("dimension", [2, 3])
def test_displacements_of_this_project_undo_a_known_shift(dimension, tmp_path, monkeypatch, in_process):
    model = save_centroid_model(tmp_path / "centroid.pt", dimension)
    size = {2: (64, 48, 1), 3: (44, 36, 22)}[dimension]
    only(monkeypatch, partial(cases._shifted_blobs, size, 0), dimension=dimension)
    options = ["--peers", "ours-network", "--model", str(model)]
    rows, _ = run(monkeypatch, tmp_path, [], *options, group="one")
    assert [row.method for row in rows] == ["before", "ours-network centroid"]
    assert rows[1].status == "done" and rows[1].tre_mm < compare_rows.CONVENTION_PART * rows[0].tre_mm


def convention_row(pair, method, displacement):
    field = DisplacementField(np.broadcast_to(displacement, (*pair.fixed.grid.shape, 3)), pair.fixed.grid)
    tre = score(pair, field).tre_mm
    return compare.Row(0, 1, 1, "convention 3D", "convention", method, "done", tre_mm=tre)


def test_convention_check_passes_the_right_shift_and_no_other_sign_or_order_of_axes():
    pair = cases._shifted_blobs((22, 18, 11), 0)
    directions = pair.fixed.grid.directions
    shift = directions @ cases.CONVENTION_SHIFT
    rows = [convention_row(pair, "before", 0.0 * shift), convention_row(pair, "right", shift)]
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            change = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if not np.array_equal(change, np.eye(3)):
                rows.append(convention_row(pair, f"RAS {order} {signs}", change @ shift))
                rows.append(convention_row(pair, f"ijk {order} {signs}", directions @ change @ directions.T @ shift))
    assert rows[1].tre_mm < 1e-3
    assert compare.wrong_conventions(rows) == [f"{row.method} (convention 3D)" for row in rows[2:]]


def test_method_that_is_not_installed_gets_a_row_and_the_run_goes_on(tmp_path, monkeypatch):
    absent = peers.PythonPeer("greedy", "no_such_package_here", "pip install picsl_greedy")
    rows, _ = run(monkeypatch, tmp_path, [absent, Fake()])
    statuses = {(row.case, row.method): row.status for row in rows}
    assert statuses["convention 3D", "greedy"] == "not installed: pip install picsl_greedy"
    assert statuses["convention 3D", "fake"] == "done"
    assert "not installed" in (tmp_path / "results.csv").read_text()


def test_failing_and_slow_methods_get_rows_and_the_run_goes_on(tmp_path, monkeypatch):
    fakes = [
        Fake("fails", code="raise SystemExit('out of luck')"),
        Fake("slow", code="import time; time.sleep(600)"),
        Fake("silent", find=lambda job: peers.PythonPeer("silent", "", "").field(job)),
        Fake("works"),
    ]
    only(monkeypatch, partial(cases._shifted_blobs, (20, 18, 12), 0))
    rows, _ = run(monkeypatch, tmp_path, fakes, "--timeout", "2", group="one")
    statuses = {row.method: row.status for row in rows}
    assert statuses["fails"] == "failed: out of luck"
    assert statuses["slow"] == "stopped after 2 s"
    assert statuses["silent"] == "failed: silent wrote no displacement field."
    assert statuses["works"] == "done"


def test_missing_data_is_a_row(tmp_path, monkeypatch):
    rows, _ = run(monkeypatch, tmp_path, [Fake()], group="abdomen")
    assert [row.method for row in rows] == ["before", "fake"]
    assert all("no data: The data folder has no ct.nii.gz" in row.status for row in rows)


def test_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    seen = []
    first, second = Fake("first", seen=seen), Fake("second", seen=seen)
    rows, told = run(monkeypatch, tmp_path, [first], "--seed", "5")
    assert len(seen) == 2 and len(told) == 4
    again, told = run(monkeypatch, tmp_path, [first, second], "--seed", "5")
    assert len(seen) == 4 and [row.method for row in told] == ["second", "second"]
    assert [row for row in again if row.method == "first"] == [row for row in rows if row.method == "first"]
    run(monkeypatch, tmp_path, [first], "--seed", "6")
    assert len(seen) == 6
    assert {row.seed for row in compare.Results(tmp_path / "results.csv").rows.values()} == {5, 6}


def unaligned_pair():
    """Blobs, moved out of place by 12 mm on a grid of their own."""
    fixed = blobs(make_grid((36, 32, 28), (1.5, 1.5, 1.5)))
    matrix = np.eye(4)
    matrix[:3, 3] = (12.0, -6.0, 3.0)
    moving = Image(fixed.array, fixed.grid.transformed(matrix), "moving")
    points = fixed.grid.center_ras + np.random.default_rng(0).uniform(-8, 8, (20, 3))
    return cases.Pair(fixed, moving, {}, points, points + matrix[:3, 3])


def test_alignment_comes_before_all_but_those_that_do_the_whole_road(tmp_path, monkeypatch, in_process):
    seen, align = [], peer_programs.align

    def by_centers(fixed, moving, output, kind):
        # Which is as good for a shift, and costs nothing.
        assert kind == "affine"
        align(fixed, moving, output, "centers")

    def given(job):
        # The image it was given tells whether it was aligned.
        seen.append((job.linear, read_image(job.moving).grid.same_as(job.grid)))
        return DisplacementField.identity(job.grid)

    monkeypatch.setattr(peer_programs, "align", by_centers)
    fakes = [Fake("plain", find=given), Fake("whole", has_linear_stage=True, find=given)]
    only(monkeypatch, unaligned_pair, alignment="own")
    rows, _ = run(monkeypatch, tmp_path, fakes, group="one")
    before, aligned, plain, whole = rows
    assert seen == [(False, True), (True, False)]
    assert before.tre_mm == pytest.approx(np.linalg.norm([12, 6, 3])) and aligned.tre_mm < 1.0
    assert plain.tre_mm == pytest.approx(aligned.tre_mm, abs=1e-3) and plain.cpu_s > aligned.cpu_s > 0
    assert whole.tre_mm == pytest.approx(before.tre_mm)


def test_gland_is_read_from_the_first_channel_or_the_only_one(tmp_path):
    import SimpleITK as sitk

    gland = np.zeros((4, 5, 6))
    gland[1:3, 2:4, 1:4] = 1
    volume = sitk.GetImageFromArray(gland)
    sitk.WriteImage(volume, str(tmp_path / "one.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([volume, sitk.Image(volume) * 0]), str(tmp_path / "two.nii.gz"))
    for name in ("one", "two"):
        assert np.array_equal(cases._first_channel(tmp_path / f"{name}.nii.gz").array, gland)


def test_empty_fixed_labels_give_a_row_not_a_score(tmp_path, monkeypatch):
    image = blobs(make_grid((8, 8, 8)))
    empty = image.with_array(np.zeros(image.grid.shape, np.int32))
    only(monkeypatch, lambda: cases.Pair(image, image, {"organs": (empty, empty)}))
    rows, _ = run(monkeypatch, tmp_path, [Fake()], group="one")
    assert {row.status for row in rows} == {"no data: The fixed label map 'organs' holds no label."}


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(BenchmarkError, match="no case liver"):
        run(monkeypatch, tmp_path, [Fake()], group="liver")
    with pytest.raises(BenchmarkError, match="no method 'flirt'"):
        run(monkeypatch, tmp_path, [], "--peers", "flirt")


def test_shrunken_pairs_cover_the_same_space():
    pair = known_case(1)
    small = cases.shrunk(cases.Case("c", "c", lambda: pair), 2).load()
    assert small.fixed.grid.shape == (7, 13, 15)
    assert np.abs(small.fixed.grid.center_ras - pair.fixed.grid.center_ras).max() < 2.0
    assert small.labels["blobs"][1].grid.same_as(small.moving.grid)


def test_command_over_its_limit_is_told_apart_from_one_that_fails(tmp_path):
    with pytest.raises(TimedOut):
        run_measured([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "a.txt", limit_s=1.0)
    with pytest.raises(BenchmarkError, match="failed"):
        run_measured([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "b.txt", limit_s=100.0)


def test_means_and_plot_are_over_what_is_done(tmp_path):
    done = compare.Row(0, 1, 1, "a 1", "a", "ours-network m", "done", dice=0.5, cpu_s=4.0)
    rows = [done, replace(done, case="a 2", dice=0.7, cpu_s=6.0), replace(done, case="a 3", status="failed: x")]
    mean = compare.means(rows)
    assert [(row.case, row.dice, row.cpu_s) for row in mean] == [("a (2)", pytest.approx(0.6), 5.0)]
    compare_plot.write_plot(mean, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
