"""The names of version 0.1, which its README told scripts to import from here; they live in the room `images` now."""

from __future__ import annotations

import importlib
import warnings

_ROOMS = ("grid", "image", "files")


def __getattr__(name: str) -> object:
    """A name of `images.grid`, `images.image` or `images.files`."""
    if not name.startswith("_"):
        for room in _ROOMS:
            module = importlib.import_module(f".images.{room}", __package__)
            if hasattr(module, name):
                where = f"VoxelMorphRegistrationLib.images.{room}"
                warnings.warn(f"{name} is in {where} now", DeprecationWarning, stacklevel=2)
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
