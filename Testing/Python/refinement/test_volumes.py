"""What the stages see."""

import threading

import numpy as np
import torch

from refinement_cases import known, refined
from VoxelMorphRegistrationLib.refinement.volumes import View


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
