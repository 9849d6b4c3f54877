"""Transform files of a fifth of the size, which ITK reads as its own."""

import gzip
import io
import itertools
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from grids import make_grid
from VoxelMorphRegistrationLib.errors import OutputError
from VoxelMorphRegistrationLib.fields import hdf5
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import read_field, reads_back, write_field
from VoxelMorphRegistrationLib.fields.folding import folded_voxels
from VoxelMorphRegistrationLib.images import packed

GRIDS = [
    make_grid((60, 50, 40), (1.0, 1.5, 2.5), (20, 10, -30)),
    make_grid((5, 4, 3), (2.0, 1.0, 1.0), (0, 0, 45), left_handed=True),
]


def field_on(grid):
    rng = np.random.default_rng(0)
    return DisplacementField(rng.normal(0, 3, (*grid.shape, 3)).astype(np.float32), grid)


@pytest.mark.parametrize("grid", GRIDS, ids=["parts", "one part"])
def test_itk_reads_what_was_written_bit_by_bit(grid, library, tmp_path):
    field, path = field_on(grid), tmp_path / "t.h5"
    write_field(field, path)
    read = read_field(path)
    np.testing.assert_array_equal(read.displacement_ras, field.displacement_ras)
    assert read.grid.same_as(grid, 1e-6)
    # Through ITK's own transform, in LPS.
    transform = sitk.ReadTransform(str(path))
    point = grid.to_ras((np.array(grid.size) - 1) / 2 + 0.25)
    moved = np.array(transform.TransformPoint((point * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    np.testing.assert_allclose(moved, field.transform_points(point)[0], atol=1e-4)
    assert reads_back(path, field)


def test_a_smooth_field_takes_a_fraction_of_the_room(library, tmp_path):
    grid = GRIDS[0]
    smooth = np.sin(grid.positions() / 20) * 4
    field = DisplacementField((np.rint(smooth * 1024) / 1024).astype(np.float32), grid)
    write_field(field, tmp_path / "t.h5")
    assert (tmp_path / "t.h5").stat().st_size < 0.25 * 24 * grid.voxel_count


def test_a_changed_or_damaged_file_is_found_out(tmp_path):
    field, path = field_on(GRIDS[0]), tmp_path / "t.h5"
    write_field(field, path)
    other = field.displacement_ras.copy()
    other[-1, -1, -1, 2] += 1e-3
    assert not reads_back(path, DisplacementField(other, field.grid))
    moved = field.grid.cropped((1, 0, 0), np.array(field.grid.size))
    assert not reads_back(path, DisplacementField(field.displacement_ras, moved))
    with h5py.File(path) as file:
        place = file["TransformGroup/0/TransformParameters"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 40 : place + 60] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(OSError, match="decompress"):
        reads_back(path, field)


def test_without_h5py_itk_writes_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    field, path = field_on(GRIDS[1]), tmp_path / "t.h5"
    write_field(field, path)
    np.testing.assert_array_equal(read_field(path).displacement_ras, field.displacement_ras)
    assert reads_back(path, field)


def test_the_faster_library_packs_where_it_is(monkeypatch):
    data = os.urandom(100) * 50
    used = packed.packer(-zlib.MAX_WBITS)
    assert type(used).__module__ != "zlib" and used.flush(zlib.Z_FULL_FLUSH) is not None
    monkeypatch.setitem(sys.modules, "isal", None)
    used = packed.packer(zlib.MAX_WBITS)
    assert zlib.decompress(used.compress(data) + used.flush()) == data and type(used).__module__ == "zlib"


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    with pytest.raises(OutputError, match="could not be written"):
        write_field(field_on(GRIDS[1]), tmp_path / "missing" / "t.h5")


@pytest.mark.parametrize("count", [1, 3])
def test_gzip_in_parts_is_one_stream(count, library, monkeypatch):
    monkeypatch.setattr(packed, "threads", lambda: count)
    parts = [b"", b"abc" * 1000, os.urandom(5000), b"z"]
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE):
        file = io.BytesIO()
        packed.write_gzip(file, iter(parts), strategy)
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        assert stream.decompress(file.getvalue()) == b"".join(parts) and stream.eof and not stream.unused_data
        assert gzip.decompress(file.getvalue()) == b"".join(parts)


def test_parts_stay_in_order_and_only_a_few_are_held(monkeypatch):
    monkeypatch.setattr(packed, "threads", lambda: 2)
    taken = []

    def parts():
        for n in range(50):
            taken.append(n)
            yield n

    for n, found in enumerate(packed.in_order(lambda part: part * part, parts())):
        assert found == n * n and len(taken) <= n + 6


@pytest.mark.parametrize("shape", [(9, 8, 7), (1, 12, 10)])
def test_folds_of_a_flow_are_those_of_its_field(shape):
    import torch

    grid = make_grid(shape[::-1], (1.0, 1.5, 2.0), (10, 20, 5))
    rng = np.random.default_rng(1)
    dims = sum(n > 1 for n in shape)
    flow = rng.normal(0, 0.4, (dims, *(n for n in shape if n > 1))).astype(np.float32)
    expected = DisplacementField.from_voxels(flow, grid).folded_corners()
    found = folded_voxels(torch.from_numpy(flow))
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    # Of two boxes, the differences to the voxels beside them count as well.
    boxes = [tuple(slice(1, n - 2) for n in flow.shape[1:]), tuple(slice(n - 2, n) for n in flow.shape[1:])]
    part = np.zeros(flow.shape[1:], bool)
    for box in boxes:
        part[box] = True
    found = folded_voxels(torch.from_numpy(flow), boxes)
    np.testing.assert_array_equal(found.reshape(part.shape), expected.reshape(part.shape) & part)


@pytest.mark.parametrize("scale", [0.05, 0.4, 1.0])
def test_a_fold_at_any_corner_is_found_wherever_it_is(scale):
    import torch

    flow = torch.randn(3, 9, 10, 11, generator=torch.Generator().manual_seed(0)).mul_(scale)
    sides = []
    for axis in range(1, 4):
        steps, last = flow.diff(dim=axis), flow.shape[axis] - 2
        first, end = steps.narrow(axis, 0, 1), steps.narrow(axis, last, 1)
        sides.append([torch.cat([steps, end], axis), torch.cat([first, steps], axis)])
    lowest = torch.full(flow.shape[1:], torch.inf)
    for chosen in itertools.product(*sides):
        jacobian = torch.stack(chosen, -1).movedim(0, -2) + torch.eye(3)
        lowest = torch.minimum(lowest, torch.linalg.det(jacobian))
    assert (lowest > 0).any() and (lowest.abs() > 1e-5).all()
    np.testing.assert_array_equal(folded_voxels(flow), (lowest <= 0).numpy())


def test_packing_needs_no_torch():
    code = "from VoxelMorphRegistrationLib.images import packed; packed.threads()"
    code += "; import sys; print('torch' in sys.modules)"
    library = Path(__file__).parents[3] / "VoxelMorphRegistration"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=library)
    assert done.stdout.strip() == "False"


def test_checksums_are_those_of_lookup3():
    """The words that its author gives with their sum."""
    assert hdf5._checksum(b"") == struct.pack("<I", 0xDEADBEEF)
    assert hdf5._checksum(b"Four score and seven years ago") == struct.pack("<I", 0x17770551)


def test_times_go_from_every_header_and_the_file_stays_whole(tmp_path):
    path, look_alike = tmp_path / "a.h5", np.frombuffer(b"OHDR\x02\x20" + bytes(range(1, 90)), np.uint8)
    arrays = {f"d{n}": np.arange(5.0 + n) for n in range(3)} | {"text": look_alike}
    with h5py.File(path, "w", libver="latest") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=name != "text")
    before = path.read_bytes()
    hdf5.remove_times(path)
    after = path.read_bytes()
    # The library refuses headers whose sum is wrong.
    with h5py.File(path) as file:
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name][()], array)
    places = [n for n in range(len(before)) if before.startswith(b"OHDR\x02", n) and before[n + 5] & 0x20]
    cleared = [after[n + 6 : n + 22] == bytes(16) != before[n + 6 : n + 22] for n in places]
    assert cleared.count(True) >= 3 and cleared.count(False) == 1
