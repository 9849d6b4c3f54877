"""What Windows needs, with a stand-in for its library: processes that end together, names of any length."""

from __future__ import annotations

import ctypes
from pathlib import Path, PureWindowsPath

from VoxelMorphRegistrationLib.worker import files
from VoxelMorphRegistrationLib.worker.family import _EXTENDED_LIMITS, Family, _Limits


class Kernel:
    """Notes the calls of kernel32; handles are 1 (the job) and 7 (the process)."""

    def __init__(self, found: bool = True) -> None:
        self.calls: list[tuple] = []
        self.found = found

    def CreateJobObjectW(self, *arguments):
        self.calls.append(("create", *arguments))
        return 1

    def SetInformationJobObject(self, handle, kind, limits, size):
        self.calls.append(("limit", handle, kind, limits._obj.LimitFlags, size))
        return 1

    def OpenProcess(self, rights, inherit, pid):
        self.calls.append(("open", rights, pid))
        return 7 if self.found else None

    def AssignProcessToJobObject(self, job, process):
        self.calls.append(("assign", job, process))
        return 1

    def TerminateJobObject(self, job, code):
        self.calls.append(("kill", job))
        return 1

    def CloseHandle(self, handle):
        self.calls.append(("close", handle))
        return 1


def test_a_family_ends_with_who_holds_it_and_when_it_is_told_to():
    kernel = Kernel()
    family = Family(kernel)
    # JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE in JOBOBJECT_EXTENDED_LIMIT_INFORMATION (144 bytes in 64 bits).
    assert kernel.calls[1] == ("limit", 1, _EXTENDED_LIMITS, 0x2000, ctypes.sizeof(_Limits))
    assert ctypes.sizeof(ctypes.c_size_t) != 8 or ctypes.sizeof(_Limits) == 144
    family.add(4711)
    family.kill()
    family.close()
    family.close()
    family.kill()
    assert kernel.calls[2:] == [("open", 0x101, 4711), ("assign", 1, 7), ("close", 7), ("kill", 1), ("close", 1)]


def test_a_process_that_is_gone_already_is_no_member():
    kernel = Kernel(found=False)
    Family(kernel).add(4711)
    assert kernel.calls[-1][0] == "open"


def test_names_may_be_longer_than_260_characters_on_windows():
    path = PureWindowsPath(r"C:\Users\someone\AppData\Local\Temp\voxelmorph-worker-1-abc")
    long = files.extended(path, "win32")
    assert str(long) == r"\\?\C:\Users\someone\AppData\Local\Temp\voxelmorph-worker-1-abc"
    assert str(long / "job-1" / "input-0.npy").startswith(str(long))
    assert files.extended(long, "win32") == long
    assert files.extended(Path("/tmp/x"), "linux") == Path("/tmp/x")
