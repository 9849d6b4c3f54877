"""What decides the result of a pair, as one number: a pair is done anew where it changed.

By content, not by time: a study that is copied or unpacked again keeps its results. Reading every input again to know
that nothing changed would cost minutes a thousand pairs, so each is kept with its size and time of change, and read
again only where these differ.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ModelError
from ..networks.shelf import find_model
from ..transforms.reading import Named
from .pair import Pair

ABSENT = "absent"
# Settings that say where it is computed, not what.
_WHERE = ("device",)
# Files whose voxels lie in another one beside them.
_HEADERS = (".mhd", ".nhdr", ".hdr", ".img")


@dataclass(frozen=True)
class Key:
    """digest: of all. inputs: {path: (stamp, content)}, to compare with later without reading."""

    digest: str
    inputs: dict[str, tuple[str, str]]


def key_of(pair: Pair, kept: Iterable[str] = (), former: Mapping[str, tuple[str, str]] | None = None) -> Key:
    """kept: the results that are asked for. former: inputs of an earlier key, whose stamps are believed."""
    settings = {name: value for name, value in asdict(pair.settings).items() if name not in _WHERE}
    if settings["model"] not in ("auto", "none"):
        # Its content counts, below.
        settings["model"] = "named"
    inputs: dict[str, tuple[str, str]] = {}
    contents = []
    for what, path in [*pair.files.read_names(), *_model(pair)]:
        for each in _files(Path(path)):
            stamp = stamp_of(each)
            known = (former or {}).get(str(each))
            content = known[1] if known is not None and known[0] == stamp else _content(str(each), stamp)
            inputs[str(each)] = (stamp, content)
            contents.append((what, content))
    series = (pair.files.fixed_series, pair.files.moving_series)
    named = map(Named.of, pair.files.initial_transform)
    chain = [(one.inverted, one.convention) for one in named]
    text = json.dumps([settings, pair.inverse, sorted(kept), contents, series, chain], sort_keys=True)
    return Key(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), inputs)


def _model(pair: Pair) -> Iterator[tuple[str, str]]:
    if pair.settings.model not in ("auto", "none"):
        try:
            yield "model", str(find_model(pair.settings.model))
        except ModelError:
            yield "model", pair.settings.model


def _files(path: Path) -> list[Path]:
    """The file, and those that hold its voxels."""
    if path.suffix.lower() not in _HEADERS or not path.is_file():
        return [path]
    return sorted(one for one in path.parent.glob(f"{glob_safe(path.stem)}.*") if one.is_file())


def glob_safe(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "[]*?" else letter for letter in text)


def stamp_of(path: Path) -> str:
    """Size and time of change; of a folder, those of all files in it."""
    try:
        if path.is_dir():
            return _digest(f"{one.relative_to(path)} {_times(one)}" for one in _within(path))
        return _times(path)
    except OSError:
        return ABSENT


def _times(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size}-{found.st_mtime_ns}"


def _within(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# An atlas is an input of all pairs; other images are of one or a few.
@functools.lru_cache(maxsize=64)
def _content(name: str, stamp: str) -> str:
    path = Path(name)
    if stamp == ABSENT:
        return ABSENT
    try:
        if path.is_dir():
            return _digest(f"{one.relative_to(path)} {_file_digest(one)}" for one in _within(path))
        return _file_digest(path)
    except OSError:
        return ABSENT


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _hash).hexdigest() if hasattr(hashlib, "file_digest") else _read(file)


def _hash():
    return hashlib.blake2b(digest_size=16)


def _read(file) -> str:
    """Python 3.10 has no file_digest."""
    found = _hash()
    while part := file.read(1 << 20):
        found.update(part)
    return found.hexdigest()


def _digest(lines: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=16).hexdigest()
