"""Work begun before its result is asked for."""

import threading

import pytest
import torch

from VoxelMorphRegistrationLib.images.ahead import Ahead
from VoxelMorphRegistrationLib.images.slabs import each


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_it_is_done_beside_the_calling_thread(two_threads):
    begun = threading.Event()

    def work():
        begun.set()
        return threading.current_thread(), torch.get_num_threads()

    with Ahead() as ahead:
        result = ahead.begin(work)
        assert begun.wait(20)
        thread, number = result()
    assert thread is not threading.main_thread() and number == 1
    assert torch.get_num_threads() == 2


def test_it_has_as_many_threads_as_slabs_when_work_begins(two_threads):
    """Before PyTorch is loaded nobody knows how many."""
    torch.set_num_threads(1)
    with Ahead() as ahead:
        torch.set_num_threads(2)
        assert ahead.begin(threading.get_ident)() and ahead.has_thread


def test_with_one_thread_it_is_done_when_it_is_asked_for():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    done = []
    with Ahead() as ahead:
        result = ahead.begin(lambda: done.append(threading.current_thread()))
        assert not ahead.has_thread and not done
        result()
    torch.set_num_threads(before)
    assert done == [threading.main_thread()]


def test_what_is_not_begun_is_done_by_whoever_asks(two_threads):
    go_on, done = threading.Event(), []
    with Ahead() as ahead:
        first = ahead.begin(lambda: go_on.wait(20))
        second = ahead.begin(lambda: done.append(threading.current_thread()))
        second()
        assert done == [threading.main_thread()]
        go_on.set()
        assert first()


def test_slabs_do_not_wait_for_it(two_threads):
    go_on = threading.Event()
    with Ahead() as ahead:
        result = ahead.begin(lambda: go_on.wait(20))
        assert each(lambda number: number * number, range(6)) == [0, 1, 4, 9, 16, 25]
        go_on.set()
        assert result()


def test_at_its_end_nothing_more_is_begun_and_what_runs_is_waited_for(two_threads):
    begun, done = threading.Event(), []

    def work():
        begun.set()
        threading.Event().wait(0.1)
        done.append("first")

    with Ahead() as ahead:
        ahead.begin(work)
        ahead.begin(lambda: done.append("second"))
        assert begun.wait(20)
    assert done == ["first"]


def test_an_error_reaches_whoever_asks(two_threads):
    begun = threading.Event()

    def fail():
        begun.set()
        raise ValueError("of the work")

    with Ahead() as ahead:
        result = ahead.begin(fail)
        other = ahead.begin(lambda: 5)
        assert begun.wait(20)
        with pytest.raises(ValueError, match="of the work"):
            result()
        assert other() == 5
