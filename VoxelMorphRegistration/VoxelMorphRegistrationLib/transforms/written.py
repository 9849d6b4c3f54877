"""Output files: whole under their names, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError


def check_free(path: str | Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raise OutputError early where the file may not be written.

    inputs: files that are read; none of them is ever replaced, with `overwrite` neither.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"The output {path} is a folder. Give a file name.")
    if path.exists() and any(Path(one).exists() and path.samefile(one) for one in inputs):
        raise OutputError(f"The input {path} would be replaced by the output. Give another name.")
    if path.exists() and not overwrite:
        raise OutputError(f"There is a file {path} already. Give another name, or --overwrite to replace it.")


@contextmanager
def whole(paths: list[Path], overwrite: bool = False) -> Iterator[list[Path]]:
    """Names in a temporary folder beside the outputs; what lies there in the end takes its place, all or none.

    Raises OutputError where the folder cannot be written to, and for OSError within.
    """
    for path in paths:
        check_free(path, overwrite)
    if len({path.resolve() for path in paths}) < len(paths):
        raise OutputError(f"Two outputs would have the same name: {', '.join(str(path) for path in paths)}.")
    made: list[Path] = []
    stage: Path | None = None
    try:
        for folder in {path.parent for path in paths}:
            made += [one for one in (folder, *folder.parents) if not one.exists()]
            folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".voxelmorph-", dir=paths[0].parent))
        staged = [stage / str(number) / path.name for number, path in enumerate(paths)]
        for one in staged:
            one.parent.mkdir()
        yield staged
        _place(staged, paths, stage)
    except OSError as error:
        raise OutputError(
            f"{paths[0]} could not be written: {error.strerror or error}. Check the folder's permissions and the free "
            "space."
        ) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _place(staged: list[Path], paths: list[Path], stage: Path) -> None:
    """Move the finished files to their names; what was there returns when one of them cannot be moved."""
    kept: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    try:
        for number, (one, path) in enumerate(zip(staged, paths, strict=True)):
            if path.exists():
                earlier = stage / f"earlier-{number}"
                path.replace(earlier)
                kept.append((earlier, path))
            one.replace(path)
            placed.append(path)
    except OSError:
        for path in placed:
            path.unlink(missing_ok=True)
        for earlier, path in kept:
            earlier.replace(path)
        raise
