"""Functions of tensors as one TorchScript program each, for slabs that several threads work on.

PyTorch's operations let go of the interpreter one by one, and threads hand it to each other between them; a program
lets go of it once. It does the same operations in the same order, so that the numbers are those of the function.
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
_lock = threading.Lock()
# PyTorch no longer answers for its translations there.
_TRANSLATED = sys.version_info < (3, 14)


def scripted(function: Function) -> Function:
    """The function as such a program on a processor; on other devices, by its first tensor, from Python 3.14 on, and
    where Python has no source of it (a frozen application), as it stands.

    It is written in what TorchScript knows, without constants of its module, and translated when it is called first.
    """
    programs: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def run(first: torch.Tensor, *others: Any) -> Any:
        if first.device.type != "cpu" or not _TRANSLATED:
            return function(first, *others)
        if not programs:
            with _lock:
                if not programs:
                    program = _translated(function)
                    with _as_written():
                        result = program(first, *others)
                    programs.append(program)
                    return result
        return programs[0](first, *others)

    return run  # type: ignore[return-value]


@contextmanager
def _as_written() -> Iterator[None]:
    """Programs that run first within it are made ready once. Else PyTorch watches their first run and translates them
    again for what it saw, which changes nothing here and takes a quarter of a second for all of them.
    """
    switch = getattr(torch._C, "_jit_set_profiling_mode", None)
    if switch is None:
        yield
        return
    former = switch(False)
    try:
        yield
    finally:
        switch(former)


def _translated(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        with warnings.catch_warnings():
            # That it will be gone one day is nothing to a user; whoever makes errors of warnings would get no further.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.script(function)
    except OSError:
        # PyTorch reads the source.
        return function
