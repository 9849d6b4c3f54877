"""Processes on Windows that end together, and with the program that started them.

A job object of Windows: whoever is started by one of its processes belongs to it, and when its last handle is closed,
which the system does at the end of the program that holds it, all of them are ended.
"""

from __future__ import annotations

import ctypes
from ctypes import wintypes
from typing import Any

_KILL_ON_CLOSE, _EXTENDED_LIMITS = 0x2000, 9
_SET_QUOTA, _TERMINATE = 0x0100, 0x0001


class _Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION with JOBOBJECT_BASIC_LIMIT_INFORMATION and IO_COUNTERS written out."""

    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
        ("IoCounters", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


class Family:
    """library: kernel32. Where the system refuses, the processes end by their closed pipes alone."""

    def __init__(self, library=None) -> None:
        self._library = library or _kernel32()
        self._handle = self._library.CreateJobObjectW(None, None)
        limits = _Limits(LimitFlags=_KILL_ON_CLOSE)
        self._library.SetInformationJobObject(
            self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
        )

    def add(self, pid: int) -> None:
        """The process of this id, and from now on those it starts."""
        process = self._library.OpenProcess(_SET_QUOTA | _TERMINATE, False, pid)
        if process:
            self._library.AssignProcessToJobObject(self._handle, process)
            self._library.CloseHandle(process)

    def kill(self) -> None:
        """End all of them at once."""
        if self._handle:
            self._library.TerminateJobObject(self._handle, 9)

    def close(self) -> None:
        """Let go, which ends what still runs."""
        handle, self._handle = self._handle, None
        if handle:
            self._library.CloseHandle(handle)


def _kernel32():
    # Open to type checkers: only Windows has WinDLL.
    loader: Any = ctypes
    library = loader.WinDLL("kernel32", use_last_error=True)
    for name in ("CreateJobObjectW", "OpenProcess"):
        getattr(library, name).restype = wintypes.HANDLE
    library.CreateJobObjectW.argtypes = (ctypes.c_void_p, wintypes.LPCWSTR)
    library.OpenProcess.argtypes = (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD)
    library.SetInformationJobObject.argtypes = (wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD)
    library.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
    library.TerminateJobObject.argtypes = (wintypes.HANDLE, wintypes.UINT)
    library.CloseHandle.argtypes = (wintypes.HANDLE,)
    return library
