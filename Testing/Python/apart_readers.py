"""Readers that test_apart.py runs in a process of their own."""

from __future__ import annotations

import ctypes
import itertools
import os
from pathlib import Path

import numpy as np

from VoxelMorphRegistrationLib.errors import ModelError


def whole(path: Path):
    print("a library's own word")
    os.write(1, b"and one of its C code\n")
    arrays = [np.arange(6.0).reshape(2, 3)[:, ::-1], np.zeros((0, 3), np.int16), np.full((300, 300), 7, np.uint8)]
    return {"name": path.name, "plugins": os.environ.get("ITK_AUTOLOAD_PATH")}, arrays


def refused(path: Path):
    raise ModelError(f"{path.name} is refused.")


def crashes(_: Path):
    ctypes.string_at(0)


def never_ends(_: Path):
    # A loop in C, which no signal handler of Python interrupts.
    return sum(itertools.repeat(0)), []


def needs_more(path):
    import no_such_reader

    return no_such_reader.read(path), []
