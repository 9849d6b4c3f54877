"""VoxelMorph registration: from two images to a displacement field, a warped image and a Jacobian map.

What a script needs is here: `register`, `Settings`, `Report`, `Registration`, `Image`, `Grid`, `read_image`,
`write_image`, and `batch.run` for many pairs. Importing this package is cheap; torch and SimpleITK are imported by the
functions that need them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import batch as batch
    from .images.files import read_image as read_image
    from .images.files import write_image as write_image
    from .images.grid import Grid as Grid
    from .images.image import Image as Image
    from .registration.register import register as register
    from .registration.report import Report as Report
    from .registration.result import Registration as Registration
    from .registration.settings import Settings as Settings

__version__ = "0.1.0"

_PUBLIC = {
    "Grid": ".images.grid",
    "Image": ".images.image",
    "Registration": ".registration.result",
    "Report": ".registration.report",
    "Settings": ".registration.settings",
    "read_image": ".images.files",
    "register": ".registration.register",
    "write_image": ".images.files",
}
__all__ = ["__version__", "batch", *_PUBLIC]


def __getattr__(name: str) -> object:
    """The public names, imported when they are first asked for."""
    if name == "batch":
        # A package: `batch.run`.
        return importlib.import_module(".batch", __name__)
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name], __name__), name)
