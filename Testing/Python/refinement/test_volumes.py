"""What the stages see."""

import threading

import numpy as np
import pytest
import torch

from refinement_cases import known, refined
from VoxelMorphRegistrationLib.errors import Cancelled
from VoxelMorphRegistrationLib.refinement.volumes import View
from VoxelMorphRegistrationLib.registration.progress import STOP_HERE
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.settings import Settings


def test_volumes_of_later_stages_are_made_beside_the_coarsest_and_change_nothing(monkeypatch):
    fixed, moving = known()
    made, fields, threads = [], [], torch.get_num_threads()
    volumes = View.volumes

    def noted(view, channel, similarity, decorrelated):
        made.append((similarity, view.level.spacing, threading.current_thread() is threading.main_thread()))
        return volumes(view, channel, similarity, decorrelated)

    monkeypatch.setattr(View, "volumes", noted)
    seen = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            fields.append(refined(fixed, moving).field.displacement_ras)
            seen.append(sorted((similarity, spacing) for similarity, spacing, _ in made))
            assert all(beside for *_, beside in made) == (number == 1)
            made.clear()
    finally:
        torch.set_num_threads(threads)
    # None is made twice, or for nothing.
    assert seen[0] == seen[1]
    np.testing.assert_array_equal(*fields)


@pytest.mark.parametrize("answer", [False, STOP_HERE], ids=["cancel", "stop"])
def test_who_cancels_or_stops_leaves_no_thread_that_makes_volumes(answer, monkeypatch):
    started, running, asked, finished, threads = [], threading.Event(), threading.Event(), [], torch.get_num_threads()
    volumes = View.volumes

    def slow(*arguments):
        if threading.current_thread() is threading.main_thread():
            return volumes(*arguments)
        started.append(1)
        running.set()
        asked.wait(20)
        threading.Event().wait(0.1)
        finished.append(1)
        return volumes(*arguments)

    def progress(stage, fraction):
        if stage == "refining" and fraction > 0 and running.wait(20):
            asked.set()
            return answer
        return None

    monkeypatch.setattr(View, "volumes", slow)
    # Those of the second one wait.
    fixed, moving = ([image, image.with_array(image.array + 1)] for image in known())
    torch.set_num_threads(2)
    try:
        register(fixed, moving, settings=Settings(model="none", alignment="none", device="cpu"), progress=progress)
    except Cancelled:
        assert answer is False
    finally:
        torch.set_num_threads(threads)
    assert started == finished == [1]
