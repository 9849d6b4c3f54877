"""Displacement fields in ITK's HDF5 transform files, packed: a fifth of the size of those that ITK writes by itself.

ITK reads them as any other: HDF5 unpacks what it hands out. The values are stored as float32, as they are here, which
loses nothing, while ITK stores float64.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..images.files import itk_geometry
from ..images.grid import Grid
from ..images.packed import in_order, packer, unpacker

if TYPE_CHECKING:
    from .displacement import DisplacementField

_FLIP = np.array([-1.0, -1.0, 1.0], dtype=np.float32)
_GROUP = "TransformGroup/0"
# Of a part that is packed at once: a megabyte.
_VALUES = 1 << 18


def has_hdf5() -> bool:
    """Whether h5py is there. It comes with the package from PyPI; Slicer does not ship it."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        return False
    return True


def write_packed(field: DisplacementField, path: Path) -> None:
    """Write the field as a DisplacementFieldTransform. Raises OSError."""
    import h5py

    count = 3 * field.grid.voxel_count
    size = min(_VALUES, count)
    text = h5py.string_dtype("ascii")
    with _told_as_os_error(), h5py.File(path, "w") as file:
        for name, value in (("ITKVersion", "5.4.0"), ("HDFVersion", "1.10"), ("OSName", "any"), ("OSVersion", "any")):
            file.create_dataset(name, (1,), text, [value])
        group = file.create_group(_GROUP)
        group.create_dataset("TransformType", (1,), text, ["DisplacementFieldTransform_double_3_3"])
        group.create_dataset("TransformFixedParameters", data=_parameters(field.grid))
        values = group.create_dataset(
            "TransformParameters", (count,), "<f4", chunks=(size,), compression="gzip", compression_opts=1, shuffle=True
        )
        starts = range(0, count, size)
        for start, packed in zip(starts, in_order(_packed, _chunks(field, size)), strict=True):
            values.id.write_direct_chunk((start,), packed)


def holds(path: Path, field: DisplacementField) -> bool:
    """Whether the file reads back as this field, part by part."""
    import h5py

    with _told_as_os_error(), h5py.File(path, "r") as file:
        group = file[_GROUP]
        values = group["TransformParameters"]
        if len(values) != 3 * field.grid.voxel_count:
            return False
        if not np.array_equal(group["TransformFixedParameters"][()], _parameters(field.grid)):
            return False
        size = values.chunks[0]

        def same(part: tuple[bytes, np.ndarray]) -> bool:
            packed, expected = part
            return np.array_equal(_unpacked(packed), expected)

        stored = (values.id.read_direct_chunk((start,))[1] for start in range(0, len(values), size))
        return all(in_order(same, zip(stored, _chunks(field, size), strict=True)))


def _chunks(field: DisplacementField, size: int) -> Iterator[np.ndarray]:
    """The values as ITK has them, x, y, z in LPS mm voxel by voxel, `size` at a time, zeros behind the last ones."""
    flat = field.displacement_ras.reshape(-1)
    every = np.tile(_FLIP, size // 3 + 2)
    for start in range(0, len(flat), size):
        # A part may begin within a voxel.
        signs = every[start % 3 :][: min(size, len(flat) - start)]
        part = np.zeros(size, "<f4")
        np.multiply(flat[start : start + size], signs, out=part[: len(signs)])
        yield part


def _packed(values: np.ndarray) -> bytes:
    """As HDF5's filters shuffle and deflate do: all first bytes, all second ones and so on, which repeat more."""
    stream = packer(zlib.MAX_WBITS, zlib.Z_RLE)
    return stream.compress(np.ascontiguousarray(values.view(np.uint8).reshape(-1, 4).T).data) + stream.flush()


def _unpacked(data: bytes) -> np.ndarray:
    make, damaged = unpacker()
    stream = make(zlib.MAX_WBITS)
    try:
        planes = np.frombuffer(stream.decompress(data), np.uint8).reshape(4, -1)
    except damaged as error:
        raise OSError(errno.EIO, "a part does not decompress") from error
    return np.ascontiguousarray(planes.T).reshape(-1).view("<f4")


def _parameters(grid: Grid) -> np.ndarray:
    """Size, origin, spacing and directions, in LPS."""
    origin, spacing, directions = itk_geometry(grid)
    return np.concatenate([grid.size, origin, spacing, directions.ravel()]).astype("<f8")


@contextmanager
def _told_as_os_error() -> Iterator[None]:
    """HDF5 has errors of its own for a full disk and damaged files."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise OSError(errno.EIO, str(error) or type(error).__name__) from error
