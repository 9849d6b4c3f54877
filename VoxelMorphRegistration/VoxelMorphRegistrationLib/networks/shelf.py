"""The shipped models."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ModelError


def models_folder() -> Path:
    """Where the shipped models are: in the wheel, in the source tree, or in Slicer's module resources."""
    library = Path(__file__).resolve().parent.parent
    candidates = [
        library / "shipped_models",
        library.parent.parent / "Resources" / "Models",
        library.parent / "Resources" / "Models",
    ]
    return next((folder for folder in candidates if folder.is_dir()), candidates[1])


def model_names() -> list[str]:
    """Names of the shipped models."""
    return sorted(path.stem for path in models_folder().glob("*.pt"))


def find_model(name_or_path: str | Path) -> Path:
    """The file of a shipped model's name or of a path. Raises ModelError."""
    path = Path(name_or_path)
    # A name of any length is none of a file, and no error.
    if os.path.isfile(path):  # noqa: PTH113
        return path
    shipped = models_folder() / f"{name_or_path}.pt"
    if path.name == str(name_or_path) and os.path.isfile(shipped):  # noqa: PTH113
        return shipped
    names = ", ".join(model_names()) or "none"
    raise ModelError(f"There is no model file or shipped model '{name_or_path}'. Shipped models: {names}.")
