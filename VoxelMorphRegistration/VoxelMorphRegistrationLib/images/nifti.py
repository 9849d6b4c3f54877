"""NIfTI files (NIfTI-1, NIfTI-2, Analyze 7.5), read and written here and by neither ITK nor nibabel.

ITK reads a file that ends early as if it were whole, takes the voxels of a.nii for a.nii.gz beside it, turns NaN into
0, knows no NIfTI-2 and keeps silent about contradictions of the header. nibabel leaves the same contradictions to its
caller, is no part of 3D Slicer, and its import alone costs half a second. The header is a fixed record, and the voxels
are an array behind it. Agreement with nibabel and ITK is tested.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import InputError
from .grid import Grid
from .nifti_space import matrix_of_header, set_header_matrix, unit_told
from .packed import PACKED_BYTES, Content, DamagedFile, unpacked, write_gzip

# Of bytes, little or big end first.
Order = Literal["<", ">"]

HEADER_1 = np.dtype(
    [("sizeof_hdr", "i4"), ("unused_1", "S35"), ("dim_info", "u1"), ("dim", "i2", 8), ("intent_p", "f4", 3)]
    + [("intent_code", "i2"), ("datatype", "i2"), ("bitpix", "i2"), ("slice_start", "i2"), ("pixdim", "f4", 8)]
    + [("vox_offset", "f4"), ("scl_slope", "f4"), ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1")]
    + [("xyzt_units", "u1"), ("unused_2", "S24"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i2")]
    + [("sform_code", "i2"), *((f"quatern_{n}", "f4") for n in "bcd"), *((f"qoffset_{n}", "f4") for n in "xyz")]
    + [*((f"srow_{n}", "f4", 4) for n in "xyz"), ("intent_name", "S16"), ("magic", "S4")]
)
HEADER_2 = np.dtype(
    [("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "i8", 8)]
    + [("intent_p", "f8", 3), ("pixdim", "f8", 8), ("vox_offset", "i8"), ("scl_slope", "f8"), ("scl_inter", "f8")]
    + [("unused_1", "S48"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i4"), ("sform_code", "i4")]
    + [*((f"quatern_{n}", "f8") for n in "bcd"), *((f"qoffset_{n}", "f8") for n in "xyz")]
    + [*((f"srow_{n}", "f8", 4) for n in "xyz"), ("slice_code", "i4"), ("xyzt_units", "i4"), ("intent_code", "i4")]
    + [("intent_name", "S16"), ("dim_info", "u1"), ("unused_2", "S15")]
)
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}
_REFUSED_TYPES = {
    1: "one bit a voxel",
    32: "complex values",
    128: "colour",
    1536: "numbers of 128 bits",
    1792: "complex values",
    2048: "complex values",
    2304: "colour",
}
# By the unit of time in xyzt_units: milliseconds, microseconds.
_SECONDS = {16: 1e-3, 24: 1e-6}
DISPLACEMENT_INTENT = 1006
SHEARED = "Image files cannot hold sheared axes. Resample onto a grid with right angles first."
_PACKED = (".gz", ".bz2", ".xz", ".zst")
# Deflate packs no more than 1032 to 1: a file that claims more voxels cannot hold them.
_LARGEST_RATIO = 1032
# How much may follow the voxels, as a multiple of them and of 16 MB: a small file may unpack to terabytes.
_MOST_BEHIND = 16


@dataclass(frozen=True, eq=False)
class NiftiContent:
    """What a file holds. array: (..., K, J, I), axes beyond the third in front; told: what its reader should know.

    time_step: from one volume of a series to the next, in seconds.
    """

    array: np.ndarray
    ijk_to_ras: np.ndarray
    intent: int
    told: tuple[str, ...]
    time_step: float = 1.0


def is_nifti_name(path: Path) -> bool:
    """Whether a name is one of a NIfTI or Analyze file, compressed or not."""
    return _suffix(path) in (".nii", ".img", ".hdr")


def _suffix(path: Path) -> str:
    """The suffix without that of a compression, in small letters."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_nifti(path: Path, label: str) -> NiftiContent:
    """The voxels and the position of a NIfTI or Analyze file. Raises InputError for what is damaged or no image."""
    try:
        return _read(path, label)
    except DamagedFile as error:
        raise InputError(f"The {label} cannot be read from {path}: {error}.") from error


def _read(path: Path, label: str) -> NiftiContent:
    header_path, data_path = _files_of(path)
    with unpacked(header_path) as content:
        header, byte_order, is_pair = _header(content)
        dims = _dimensions(header)
        dtype = _data_type(header, byte_order)
        count = int(np.prod([float(n) for n in dims]))
        if header_path == data_path:
            if is_pair:
                raise DamagedFile("its header says that the voxels are in another file (.img); give that one")
            raw, surplus = _voxels(content, _offset(header), count * dtype.itemsize, data_path)
    if header_path != data_path:
        with unpacked(data_path) as content:
            raw, surplus = _voxels(content, _offset(header, pair=True), count * dtype.itemsize, data_path)
    array = raw.view(dtype).reshape(dims[::-1])
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    size = (*dims, 1, 1)[:3]
    try:
        matrix, told = matrix_of_header(header, size, label)
    except ValueError as error:
        raise DamagedFile(str(error)) from error
    if surplus >= dims[0] * dims[1] * dtype.itemsize:
        told.append(
            f"The file of the {label} is longer than its header says: {surplus} bytes follow its {count} voxels. Check "
            "the sizes in its header."
        )
    return NiftiContent(
        _scaled(array, float(header["scl_slope"]), float(header["scl_inter"])),
        matrix,
        int(header["intent_code"]),
        (*told, *unit_told(header, label)),
        _time_step(header),
    )


def _time_step(header: np.void) -> float:
    step = float(header["pixdim"][4]) * _SECONDS.get(int(header["xyzt_units"]) & 0x38, 1.0)
    return step if np.isfinite(step) and step > 0 else 1.0


def _files_of(path: Path) -> tuple[Path, Path]:
    """The file with the header and the one with the voxels, the same for .nii."""
    if _suffix(path) not in (".img", ".hdr"):
        return path, path
    other = {".img": ".hdr", ".hdr": ".img"}[_suffix(path)]
    stem = path.name[: path.name.lower().rindex(_suffix(path))]
    # The one that is packed in the same way first: a.img and a.img.gz may be different images.
    packing = path.name[len(stem) + len(other) :]
    endings = [other + packing, other.upper() + packing, other, other.upper(), *(other + packed for packed in _PACKED)]
    partner = next((p for ending in endings if (p := path.with_name(stem + ending)).is_file()), None)
    if partner is None:
        raise DamagedFile(f"there is no {stem}{other} beside it, and only both together are an image")
    return (partner, path) if other == ".hdr" else (path, partner)


def _header(content: Content) -> tuple[np.void, Order, bool]:
    """The header, its byte order, and whether the voxels are in another file."""
    start = content.read(HEADER_1.itemsize)
    if len(start) < HEADER_1.itemsize:
        raise DamagedFile("it ends early, within its header, or it is no NIfTI file")
    orders: tuple[Order, Order] = ("<", ">")
    for order in orders:
        size = int(np.frombuffer(start, order + "i4", 1)[0])
        if size == HEADER_1.itemsize:
            header = np.frombuffer(start, HEADER_1.newbyteorder(order), 1)[0].copy()
            magic = bytes(header["magic"])
            if magic[:1] != b"n":
                _forget_analyze(header)
            return header, order, magic != b"n+1"
        if size == HEADER_2.itemsize:
            start += content.read(HEADER_2.itemsize - len(start))
            if len(start) < HEADER_2.itemsize:
                raise DamagedFile("it ends early, within its header")
            header = np.frombuffer(start, HEADER_2.newbyteorder(order), 1)[0].copy()
            return header, order, not bytes(header["magic"]).startswith(b"n+2")
    raise DamagedFile("it is no NIfTI file, or its header is damaged")


def _forget_analyze(header: np.void) -> None:
    """Fields that mean something else in Analyze 7.5: it states neither a position nor units."""
    for name in ("qform_code", "sform_code", "xyzt_units", "intent_code", "scl_inter"):
        header[name] = 0


def _dimensions(header: np.void) -> tuple[int, ...]:
    """Sizes along i, j, k and what lies beyond, without ones at the end, but at least (i, j, k)."""
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise DamagedFile("its header is damaged: it gives no number of dimensions")
    dims = [int(n) for n in header["dim"][1 : rank + 1]]
    if min(dims) < 1:
        raise DamagedFile(f"its header is damaged: it gives the size {' x '.join(map(str, dims))}")
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    return (*dims, 1, 1)[: max(3, len(dims))]


def _data_type(header: np.void, byte_order: Order) -> np.dtype:
    code = int(header["datatype"])
    if code in _REFUSED_TYPES:
        what = _REFUSED_TYPES[code]
        raise DamagedFile(f"it holds {what}; give one grey value a voxel, in a common number type")
    if code not in _TYPES:
        raise DamagedFile(f"its header is damaged: there is no data type {code}")
    return np.dtype(_TYPES[code]).newbyteorder(byte_order)


def _offset(header: np.void, pair: bool = False) -> int:
    """Where the voxels begin in their file."""
    offset, least = float(header["vox_offset"]), 0 if pair else int(header["sizeof_hdr"]) + 4
    if not 0 <= offset < 2**40:
        raise DamagedFile("its header is damaged: it does not say where the voxels begin")
    # Some programs leave 0; the voxels then follow the header.
    return max(int(offset), least)


def _voxels(content: Content, offset: int, size: int, path: Path) -> tuple[np.ndarray, int]:
    """`size` bytes from `offset` of a file, verified to its end, and how many bytes follow them."""
    position, packed = content.position, path.stat().st_size
    early = f"it ends early: {{}} of the {size} bytes of its voxels are there"
    if size > _LARGEST_RATIO * packed and size > (1 << 30):
        raise DamagedFile(early.format("not nearly all"))
    if offset > max(_LARGEST_RATIO * packed, 1 << 20):
        raise DamagedFile(early.format("none"))
    if content.skip(offset - position) < offset - position and size:
        raise DamagedFile(early.format("none"))
    raw = np.empty(size, np.uint8)
    found = content.fill(raw.data) if size else 0
    if found < size:
        raise DamagedFile(early.format(found))
    surplus = content.rest(_MOST_BEHIND * (size + (1 << 24)))
    if surplus is None:
        raise DamagedFile("it goes on far behind the voxels that its header states")
    return raw, surplus


def _scaled(array: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """slope * array + inter; as stored where the header asks for no scaling (slope 0 or not finite, or 1 and 0)."""
    if not np.isfinite(slope) or slope == 0:
        return array
    if not np.isfinite(inter):
        inter = 0.0
    if slope == 1 and inter == 0:
        return array
    # Single precision holds what was 16 bits, and double the rest.
    kind = np.float32 if array.dtype.itemsize <= 2 or array.dtype == np.float32 else np.float64
    result = np.empty(array.shape, kind)
    for target, part in zip(result, array, strict=True):
        target[...] = part * np.float64(slope) + inter
    return result


def write_nifti(path: Path, array: np.ndarray, grid: Grid, vectors: bool = False) -> None:
    """Write (K, J, I), or (K, J, I, 3) displacements in RAS mm with `vectors`, as NIfTI-1, by name compressed.

    Sform, qform and voxel sizes state the same. Raises OSError, and InputError for a sheared grid.
    """
    if not grid.is_orthogonal:
        raise InputError(SHEARED)
    array = np.moveaxis(array, -1, 0)[:, None] if vectors else array
    array = array.astype({"b": np.uint8, "f": np.float32}[array.dtype.kind]) if array.dtype in (bool, "f2") else array
    header = np.zeros((), HEADER_1)
    header["sizeof_hdr"], header["magic"], header["vox_offset"] = HEADER_1.itemsize, b"n+1", HEADER_1.itemsize + 4
    sizes = array.shape[::-1]
    header["dim"] = [len(sizes), *sizes, *[1] * (7 - len(sizes))]
    header["datatype"], header["bitpix"] = _CODES[array.dtype.newbyteorder("=")], 8 * array.dtype.itemsize
    header["pixdim"] = 1
    header["scl_slope"] = 1
    header["intent_code"] = DISPLACEMENT_INTENT if vectors else 0
    set_header_matrix(header, grid.ijk_to_ras)
    start = header.tobytes() + bytes(4)
    with path.open("wb") as file:
        if not path.name.endswith(".gz"):
            file.write(start)
            for part in array:
                file.write(np.ascontiguousarray(part).data)
            return
        # Numbers that hardly repeat: only runs are looked for, in less than half the time and to about the same size.
        strategy = zlib.Z_RLE if array.dtype.kind == "f" else zlib.Z_DEFAULT_STRATEGY
        write_gzip(file, chain([start], _parts(array)), strategy)


def _parts(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array, in parts of about a megabyte."""
    if array.nbytes <= PACKED_BYTES or array.ndim < 2:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    elif array[:1].nbytes > PACKED_BYTES:
        for part in array:
            yield from _parts(part)
    else:
        step = max(1, PACKED_BYTES // array[:1].nbytes)
        for row in range(0, len(array), step):
            yield np.ascontiguousarray(array[row : row + step]).reshape(-1).view(np.uint8).data
