"""PyTorch for the worker: whether it is there, and its installation by the extension that brings it."""

from __future__ import annotations

import importlib
import importlib.util

from slicer.i18n import tr as _

from ..errors import VoxelMorphError

TORCH_REQUIREMENT = ">=2.5"


def has_torch() -> bool:
    """Whether PyTorch is installed. It is not imported: it runs in the worker's process."""
    return importlib.util.find_spec("torch") is not None


def install_torch() -> None:
    """Install it through the PyTorch extension, with the user's consent. Raises VoxelMorphError."""
    try:
        import PyTorchUtils
    except ModuleNotFoundError as error:
        raise VoxelMorphError(
            _(
                "Registration needs PyTorch. Install the extension 'PyTorch' with the Extensions Manager, "
                "restart Slicer, and try again."
            )
        ) from error
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
        )
    except Exception as error:
        # Whatever pip, the network or the disk came up with.
        importlib.invalidate_caches()
        if has_torch():
            # It is there and only Slicer's own process could not load it; the worker tells whether it can.
            return
        raise VoxelMorphError(
            _(
                "PyTorch could not be installed ({error}). Check the internet connection and the disk space, or "
                "install it in the module 'PyTorch Utils', and try again."
            ).format(error=error)
        ) from error
    if torch is None:
        raise VoxelMorphError(_("PyTorch was not installed, and registration needs it. Nothing was changed."))
