"""PyTorch for the worker: whether it is there, and its installation with the extension that brings it.

Everything is asked for, with what is downloaded and how large it is, and nothing is installed without a yes.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil

import slicer
from slicer.i18n import tr as _

from ..errors import VoxelMorphError

TORCH_REQUIREMENT = ">=2.5"
# Rough sizes of what is downloaded, to be set by the wheels of a release.
_CPU_SIZE, _CUDA_SIZE = "250 MB", "3 GB"


def has_torch() -> bool:
    """Whether PyTorch is installed. It is not imported: it runs in the worker's process."""
    return importlib.util.find_spec("torch") is not None


def install_torch() -> None:
    """Install it through the PyTorch extension, with the user's consent. Raises VoxelMorphError."""
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        raise VoxelMorphError(
            _(
                "Registration needs PyTorch 2.5 or later, and for Macs with an Intel processor PyTorch ends at 2.2, "
                "which does not work with Slicer's numpy. Use a Mac with an Apple processor, Linux or Windows."
            )
        )
    try:
        import PyTorchUtils
    except ModuleNotFoundError as error:
        _install_extension(error)
    if not slicer.util.confirmOkCancelDisplay(_what_is_downloaded(), _("Install PyTorch")):
        raise VoxelMorphError(_("PyTorch was not installed, and registration needs it. Nothing was changed."))
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=False, torchVersionRequirement=TORCH_REQUIREMENT
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


def _what_is_downloaded() -> str:
    if shutil.which("nvidia-smi"):
        found, size = _("An NVIDIA card was found: its driver decides the CUDA build."), _CUDA_SIZE
    else:
        found, size = _("No NVIDIA card was found: the build for processors is enough."), _CPU_SIZE
    text = _("Registration needs PyTorch {version}. {found} About {size} are downloaded from pytorch.org, once.")
    return text.format(version=TORCH_REQUIREMENT.removeprefix(">=") + "+", found=found, size=size)


def _install_extension(error: Exception) -> None:
    """Install the extension 'PyTorch' where the user wants it. It works after a restart: always raises."""
    missing = _(
        "Registration needs PyTorch. Install the extension 'PyTorch' with the Extensions Manager, restart Slicer, and "
        "try again."
    )
    manager = getattr(slicer.app, "extensionsManagerModel", None)
    question = _("Registration needs PyTorch, which Slicer's extension 'PyTorch' installs. Install that extension now?")
    if manager is None or not slicer.util.confirmOkCancelDisplay(question, _("Install the extension 'PyTorch'")):
        raise VoxelMorphError(missing) from error
    model = manager()
    # It would ask the same again, and restart before anything was saved.
    asking, model.interactive = model.interactive, False
    try:
        installed = model.installExtensionFromServer("PyTorch", False)
    finally:
        model.interactive = asking
    if not installed:
        raise VoxelMorphError(
            _("The extension 'PyTorch' could not be installed: is Slicer connected to the internet? ") + missing
        ) from error
    if slicer.util.confirmOkCancelDisplay(
        _("The extension 'PyTorch' is installed. Slicer has to restart; save your work first. Restart now?")
    ):
        slicer.util.restart()
    raise VoxelMorphError(_("The extension 'PyTorch' is installed. Restart Slicer, then press Register again."))
