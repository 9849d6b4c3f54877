"""TIFF files, made by hand: sound ones are read, and those that libtiff would read wrong or for ever are refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images import tiff
from VoxelMorphRegistrationLib.images.files import read_image

# Order of bytes, number of the version, and struct's letters of a count and of an offset.
KINDS = {
    "little": ("<", 42, "H", "I"),
    "big": (">", 42, "H", "I"),
    "BigTIFF": ("<", 43, "Q", "Q"),
    "big BigTIFF": (">", 43, "Q", "Q"),
}
WIDTH, LENGTH, BITS, COMPRESSION, COLOUR, PLACES, ROWS, LENGTHS = 256, 257, 258, 259, 262, 273, 278, 279
PIXELS = np.arange(60, dtype=np.uint8).reshape(2, 5, 6)


def made(kind: str = "little", last: int = 0, count: int = 2, **changed) -> bytes:
    """Pages of 5 x 6 pixels, the pixels first. last: where the last one says the next is. changed: t256=..., tags."""
    order, version, number, offset = KINDS[kind]
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", version)
    head += b"" if version == 42 else struct.pack(order + "HH", 8, 0)
    begin = 16 + PIXELS.nbytes
    content = (head + struct.pack(order + offset, begin)).ljust(16, b"\0") + PIXELS.tobytes()
    for page in range(count):
        tags = {WIDTH: 6, LENGTH: 5, BITS: 8, COMPRESSION: 1, COLOUR: 1, PLACES: 16 + 30 * page, LENGTHS: 30}
        tags.update({int(name[1:]): value for name, value in changed.items()})
        entries = b"".join(
            struct.pack(f"{order}HH{offset}{offset}", tag, 4 if version == 42 else 16, 1, value)
            for tag, value in sorted(tags.items())
            if value is not None
        )
        size = struct.calcsize(number) + len(entries) + struct.calcsize(offset)
        following = len(content) + size if page + 1 < count else last
        content += struct.pack(order + number, len(tags) - list(tags.values()).count(None)) + entries
        content += struct.pack(order + offset, following)
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_read_whole_or_refused(kind, tmp_path):
    path, whole = tmp_path / "a.tif", made(kind)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path).array, PIXELS)
    page = (len(whole) - 76) // 2
    for missing in (1, page - 1, page, page + 1):
        path.write_bytes(whole[: len(whole) - missing])
        with pytest.raises(InputError, match="ends early"):
            read_image(path)
    path.write_bytes(made(kind, last=10_000))
    with pytest.raises(InputError, match="ends early"):
        read_image(path)


def test_the_distance_of_pages_is_told_as_taken_and_that_of_one_page_asks_for_nothing(tmp_path):
    (tmp_path / "a.tif").write_bytes(made())
    (told,) = read_image(tmp_path / "a.tif").told
    assert "cannot say how far its slices lie apart" in told and "1 x 1 x 1 mm were taken" in told
    (tmp_path / "b.tif").write_bytes(made(count=1))
    assert read_image(tmp_path / "b.tif").told == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.tif", "a.dat", "a.png"])
def test_pages_without_an_end_are_refused_whatever_the_name(kind, name, tmp_path):
    (tmp_path / name).write_bytes(made(kind, last=76))
    with pytest.raises(InputError, match="its pages have no end"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"t257": None}, "no value for its tag 257"),
        ({"t256": 0}, "no value for its tag 256"),
        ({"t257": 2**31}, "more pixels than it can hold"),
        ({"t257": 2**31, "t278": 1}, "1 of its 2147483648 parts"),
        ({"t257": 2**31, "t279": None}, "more pixels than it can hold"),
        ({"t257": 2**31, "t259": 8}, "more pixels than it can hold"),
        ({"t273": 10_000}, "ends early"),
        ({"t279": 2**31}, "ends early"),
        ({"t322": 16, "t323": 16, "t324": 9_999, "t325": 256}, "ends early"),
        ({"t322": 2, "t323": 5, "t324": 16, "t325": 10}, "1 of its 3 parts"),
    ],
)
def test_tags_that_do_not_fit_the_file_are_refused(changed, words, tmp_path):
    (tmp_path / "a.tif").write_bytes(made(**changed))
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "a.tif")


def test_directories_that_overlap_are_refused(tmp_path):
    # Windows of 50 entries over the same row of entries, each one entry further on; all of them hold a page's tags.
    filler, tags = struct.pack("<HHIHH", 60000, 3, 1, 0, 50), made(count=1)[78:-4]
    row = bytearray(struct.pack("<H", 50) + 20 * filler + tags + 40 * filler)
    for window in range(12):
        struct.pack_into("<I", row, 2 + 12 * (50 + window), 76 + 12 * (window + 1))
    (tmp_path / "a.tif").write_bytes(made(count=1)[:76] + row)
    with pytest.raises(InputError, match="directories of its pages overlap"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("changed", [{"t279": None}, {"t278": 2**32 - 1}, {"t259": 32946, "t257": 1000}])
def test_sound_files_pass(changed, tmp_path):
    (tmp_path / "a.tif").write_bytes(made(**changed))
    tiff.check(tmp_path / "a.tif")


def test_tiles_pass(tmp_path):
    tags = {"t273": None, "t279": None, "t322": 16, "t323": 16, "t324": 16, "t325": 30}
    (tmp_path / "a.tif").write_bytes(made(**tags))
    tiff.check(tmp_path / "a.tif")


@pytest.mark.parametrize("content", [b"", b"II*\0", b"Not a picture at all.", b"II\x2c\0" + bytes(20)])
def test_what_is_no_tiff_file_passes(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    tiff.check(tmp_path / "a")
