"""Tasks side by side."""

import threading

import pytest
import torch

from VoxelMorphRegistrationLib.images import packed


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_two_threads_run_two_tasks_at_once(threads):
    threads(2)
    meet = threading.Barrier(2, timeout=20)
    packed.together([meet.wait, meet.wait])


def test_one_thread_runs_them_one_after_the_other(threads):
    threads(1)
    done = []
    packed.together([lambda n=n: done.append((n, threading.current_thread())) for n in range(3)])
    assert done == [(n, threading.main_thread()) for n in range(3)]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_is_raised_when_what_runs_has_ended(threads, error):
    threads(2)
    begun, ended = threading.Event(), []

    def fail():
        begun.wait(20)
        raise error

    def work():
        begun.set()
        threading.Event().wait(0.1)
        ended.append(True)

    with pytest.raises(error):
        packed.together([fail, work])
    assert ended


def test_a_pytorch_that_is_being_loaded_has_no_threads_yet(monkeypatch):
    monkeypatch.setitem(packed.sys.modules, "torch", packed)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert packed.threads() == 3
