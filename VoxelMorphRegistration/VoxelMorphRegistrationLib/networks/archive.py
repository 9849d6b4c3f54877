"""The zip archive of a model file, read within limits and written anew with nothing but what was read.

A model file is somebody else's: a few megabytes may unpack to more than the memory holds, and two readers of one zip
may see different files in it. So everything is bounded, and PyTorch gets the records that were checked, not the file.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import ModelError

# The largest networks of the field (vision transformers) have some 3,000 tensors and 30 files of code.
MOST_RECORDS = 20_000
MOST_TEXT_BYTES = 4 * 2**20
MOST_FACTS_BYTES = 2**20
MOST_GRAPH_BYTES = 64 * 2**20
# What PyTorch runs a network from; there are others, such as the examples of a trace and where the code came from.
_NEEDED = re.compile(
    r"(data|constants)(\.pkl|/[0-9]+)|version|byteorder|\.data/(version|serialization_id)|code/__torch__[A-Za-z0-9_/]*\.py"
)
_UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError)


class Archive:
    """The records of a model file, by their names within its folder. Raises ModelError for what is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as file:
                entries = file.infolist()
                size = path.stat().st_size
        except _UNREADABLE as error:
            raise ModelError(f"{path.name} is no TorchScript model file, or it is damaged.") from error
        folders = {entry.filename.partition("/")[0] for entry in entries}
        if len(folders) != 1 or len(entries) > MOST_RECORDS or sum(e.compress_size for e in entries) > size:
            if "serialized_exported_program.json" in {entry.filename for entry in entries}:
                raise ModelError(
                    f"{path.name} was exported by PyTorch before 2.8, which put its weights into pickles, that is, "
                    "programs. Export it again with a later one, or as TorchScript."
                )
            raise ModelError(f"{path.name} is no model file, or it is damaged: it is another archive.")
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            name = entry.filename.partition("/")[2]
            # Readers that ignore case would find the wrong one of two.
            if name.casefold() in (known.casefold() for known in self._entries):
                raise ModelError(f"{path.name} is damaged: it holds '{name[:80]}' twice.")
            self._entries[name] = entry

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def is_program(self) -> bool:
        """Whether it is TorchScript, and not a state dict or a checkpoint."""
        return "constants.pkl" in self._entries or any(name.startswith("code/") for name in self._entries)

    def read(self, name: str) -> bytes:
        """The bytes of a record. Raises ModelError when it is missing, damaged or larger than it may be."""
        entry = self._entries.get(name)
        if entry is None:
            raise ModelError(f"{self.path.name} is damaged: it lacks {name}.")
        limit = MOST_FACTS_BYTES if name.startswith("extra/") else MOST_TEXT_BYTES
        if name.startswith("models/"):
            # Of torch.export: a call takes some 3,000 bytes, most of them where it was in the source.
            limit = MOST_GRAPH_BYTES
        if name.startswith(("data/", "constants/")):
            # PyTorch stores tensors as they are.
            limit = entry.compress_size
        if entry.file_size > limit:
            raise ModelError(f"{self.path.name} unpacks to more than a model needs ({name[:80]}); it was not opened.")
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.read(entry)
        except _UNREADABLE as error:
            raise ModelError(f"{self.path.name} is damaged: {name[:80]} cannot be read.") from error

    def check_size(self, name: str, count: int) -> None:
        """Raise ModelError when a record is missing or has less than `count` bytes."""
        if name not in self._entries or self._entries[name].file_size < count:
            raise ModelError(f"{self.path.name} is damaged: {name[:80]} is cut short.")

    def code(self) -> dict[str, str]:
        """The files of code, by their qualified names such as "__torch__.torch.nn.functional"."""
        found = {}
        for name in self._entries:
            if name.startswith("code/") and _NEEDED.fullmatch(name):
                text = self.read(name).decode("latin-1")
                found[name.removeprefix("code/").removesuffix(".py").replace("/", ".")] = text
        return found

    def copy(self, path: Path, numbers: Iterable[str], more: dict[str, bytes]) -> None:
        """Write a file of torch.export with these records of numbers, those of JSON, and more. Raises OSError."""
        names = [name for name in self._entries if name.endswith(".json") and not name.startswith("extra/")]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for name in (*names, *numbers):
                file.writestr(f"model/{name}", self.read(name))
            more = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little", **more}
            for name, data in more.items():
                file.writestr(f"model/{name}", data)

    def rewritten(self) -> io.BytesIO:
        """A TorchScript file of these records alone."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
            for name in self._entries:
                if _NEEDED.fullmatch(name):
                    file.writestr(f"model/{name}", self.read(name))
        buffer.seek(0)
        return buffer
