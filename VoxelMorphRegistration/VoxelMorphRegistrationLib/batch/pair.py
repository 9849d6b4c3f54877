"""A pair of a batch: its name, its files, its settings; and rows of a table, which say these in texts."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePath

from ..errors import InputError, SettingsError
from ..registration.files import PairFiles
from ..registration.settings import Settings

_FILES = {one.name for one in dataclasses.fields(PairFiles)}
_SETTINGS = typing.get_type_hints(Settings)
# Other names of columns; those of the command line among them.
_ALSO = {
    "name": "id",
    "pair": "id",
    "fixed_landmarks": "fixed_points",
    "moving_landmarks": "moving_points",
    "refine": "refinement",
    "working_spacing": "working_spacing_mm",
}
KNOWN = {"id", "inverse", *_FILES, *_SETTINGS}
_SEVERAL = ("initial_transform", "further_fixed", "further_moving")
_SERIES = {"fixed_series", "moving_series"}
# Folders of these names cannot be made on Windows, and longer ones not everywhere.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST_ID = 120
_SUFFIXES = {".gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".hdr", ".dcm", ".tif", ".tiff", ".mgz", ".mnc"}
_YES, _NO = {"1", "yes", "true"}, {"", "0", "no", "false"}


@dataclass(frozen=True)
class Pair:
    """One job. id: the name of its folder. notes: further columns of its row, which go into the summary."""

    id: str
    files: PairFiles
    settings: Settings = field(default_factory=Settings)
    inverse: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping) -> Pair:
        files = dict(values["files"])
        for name in _SEVERAL:
            files[name] = tuple(files[name])
        return Pair(
            values["id"], PairFiles(**files), Settings(**values["settings"]), values["inverse"], dict(values["notes"])
        )


def column(name: str) -> str:
    """The name of a column as it is known here, where it is known."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    plain = _ALSO.get(plain, plain)
    return plain if plain in KNOWN else name.strip()


def check_columns(names: Iterable[str]) -> None:
    """Raise InputError for a name that looks like a known one with a slip of the pen; others are notes."""
    for name in names:
        if name not in KNOWN and (near := get_close_matches(name.lower(), KNOWN | _ALSO.keys(), 1, 0.8)):
            raise InputError(f"The table has a column '{name}'. If it means '{near[0]}', write that; else rename it.")


def pair_of(row: Mapping, settings: Settings, folder: Path, inverse: bool = False) -> Pair:
    """The pair of a row {column: value}; an id that is missing stays empty. Raises InputError or SettingsError.

    settings, inverse: of the batch, for what the row does not say. folder: from where relative names are meant.
    """
    given: dict[str, typing.Any] = {}
    for name, value in row.items():
        if value is None or value == "":
            continue
        if (known := column(str(name))) in given:
            raise InputError(f"'{name}' says {known} a second time. Leave one out.")
        given[known] = value
    for name in ("fixed", "moving"):
        if name not in given:
            raise InputError(f"There is no {name} image.")
    for name in ("fixed", "moving"):
        # Several of a side: the first one, and further ones.
        first, *further = _several(given[name])
        given[name] = first
        given |= {f"further_{name}": further} if further else {}
    files = {name: _file(name, value, folder) for name, value in given.items() if name in _FILES}
    changes = {name: _setting(name, value, folder) for name, value in given.items() if name in _SETTINGS}
    notes = {name: str(value) for name, value in given.items() if name not in KNOWN}
    name = str(given.get("id", ""))
    if name:
        check_id(name)
    settings = settings.replace(**changes)
    if Path(settings.model).is_file():
        settings = settings.replace(model=_path(settings.model, Path()))
    pair = Pair(name, PairFiles(**files), settings, _yes(given.get("inverse", inverse)), notes)
    pair.files.check_different()
    return pair


def _file(name: str, value, folder: Path):
    if name in _SEVERAL:
        return tuple(_path(one, folder) for one in _several(value))
    return str(value) if name in _SERIES else _path(str(value), folder)


def _several(value) -> list[str]:
    """Names of a list, or of a cell with ; between them."""
    found = value if isinstance(value, (list, tuple)) else str(value).split(";")
    return [str(one).strip() for one in found] or [""]


def _path(name: str, folder: Path) -> str:
    # Absolute: workers of a cluster have another working folder.
    return str((folder / Path(name).expanduser()).absolute())


def _setting(name: str, value, folder: Path):
    if name == "model" and (folder / str(value)).is_file():
        return _path(str(value), folder)
    if not isinstance(value, str):
        return value
    kind = str(_SETTINGS[name])
    if "tuple" in kind:
        parts = [part.strip() for part in value.split(";")]
        return tuple(parts if "str" in kind else [_number(name, part) for part in parts])
    if "float" in kind:
        return _number(name, value)
    return int(_number(name, value)) if "int" in kind and _number(name, value).is_integer() else value


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"The setting {name} is '{text}', which is no number.") from None


def _yes(value) -> bool:
    text = str(value).strip().lower()
    if text in _YES | _NO:
        return text in _YES
    raise SettingsError(f"The column inverse holds '{value}'. Write yes or no.")


def check_id(name: str) -> None:
    """Raise InputError for what cannot be the name of a folder everywhere."""
    if (
        not name.isprintable()
        or set(name) & set('/\\:*?"<>|')
        or name.startswith((".", " "))
        or name.endswith((".", " "))
        or len(name.encode()) > _LONGEST_ID
        or _RESERVED.fullmatch(name)
    ):
        shown = ascii(name[:40])
        raise InputError(
            f"The id {shown} cannot name a folder. Use letters, digits, '-', '_' and '.', {_LONGEST_ID} at most."
        )


def with_ids(pairs: list[Pair]) -> list[Pair]:
    """The pairs, those without an id named by what tells their images apart: moving-to-fixed."""
    names = short_names([name for pair in pairs if not pair.id for name in (pair.files.fixed, pair.files.moving)])
    return [
        pair
        if pair.id
        else dataclasses.replace(pair, id=_cut(f"{names[pair.files.moving]}-to-{names[pair.files.fixed]}"))
        for pair in pairs
    ]


def _cut(name: str) -> str:
    """The name, cut where it is too long; what is cut off still tells it from others, by a number."""
    if len(name.encode()) <= _LONGEST_ID:
        return name
    number = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{name.encode()[: _LONGEST_ID - 9].decode(errors='ignore')}-{number}"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """A short name for each of some paths: as many of its last parts as tell it from the others."""
    parts = {path: _parts(path) for path in paths}
    count = 1
    while True:
        names = {path: "_".join(some[-count:]) for path, some in parts.items()}
        if len({name.lower() for name in names.values()}) == len(names) or count > max(map(len, parts.values())):
            return {path: re.sub(r"[^\w.-]", "_", name).strip(".") or "image" for path, name in names.items()}
        count += 1


def _parts(path: str) -> list[str]:
    *folders, name = PurePath(path).parts or (path,)
    while PurePath(name).suffix.lower() in _SUFFIXES:
        name = PurePath(name).stem
    return [*(part for part in folders if part.strip("/\\.")), name]
