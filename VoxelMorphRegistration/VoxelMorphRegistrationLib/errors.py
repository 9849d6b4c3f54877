"""The errors of this library: each message says what is wrong, with which input, and what to do."""

from __future__ import annotations


class VoxelMorphError(Exception):
    """Base of every error that is meant to be shown to a user as it is."""


class InputError(VoxelMorphError):
    """An image, label map, landmark list, transform or file given by the user cannot be used."""


class SettingsError(VoxelMorphError):
    """A setting has a value that is unknown, contradictory or not available."""


class ModelError(VoxelMorphError):
    """A model file cannot be loaded, or does not fit the images."""


class UntrustedModelError(ModelError):
    """A model file is a program with operators that networks do not need; nothing of it was run.

    Whoever trusts the file may load it all the same (trust_model). HOW: the end of its sentence, for commands and
    scripts.
    """

    HOW = " Only if you trust who made it, run it all the same: --trust-model on the command line, or trust_model=True."


class DeviceError(VoxelMorphError):
    """The device asked for is missing or has too little memory."""


class AlignmentError(VoxelMorphError):
    """The linear alignment failed."""


class FieldError(VoxelMorphError):
    """A displacement field is malformed or cannot be inverted."""


class OutputError(VoxelMorphError):
    """A result could not be written."""


class InUseError(OutputError):
    """Another process writes to the folder."""


class Cancelled(VoxelMorphError):
    """The user cancelled; nothing was written."""

    def __init__(self, message: str = "The registration was cancelled. Nothing was changed.") -> None:
        super().__init__(message)
