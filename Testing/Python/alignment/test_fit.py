"""The fit by SimpleITK: how far a map moved, and how far it has come."""

import numpy as np
import pytest

from alignment_cases import axial, motion_of
from VoxelMorphRegistrationLib.alignment.fit import STAGES, Sitk
from VoxelMorphRegistrationLib.alignment.pair import Pair

pytestmark = pytest.mark.usefixtures("few_points")


@pytest.fixture(scope="module")
def work() -> Sitk:
    return Sitk.of(Pair.of(axial(), axial(motion_of(shift=(9, -6, 0))), np.eye(4), None, 0))


def test_maps_are_apart_by_work_voxels(work):
    near = motion_of((0, 0, 0.1), (3, 4, 0))
    assert work.moved(near, near) == 0.0
    shift = motion_of(shift=(3 * work.spacing, 4 * work.spacing, 0))
    assert work.moved(near, shift @ near) == pytest.approx(5.0)
    assert work.moved(shift @ near, near) == pytest.approx(5.0)


def test_a_stage_tells_each_of_its_iterations(work):
    stage, told = STAGES["rigid"][0], []
    assert work.refined(np.eye(4), "rigid", stage, 0, told.append) is not None
    assert told[:3] == pytest.approx([1 / stage.iterations, 2 / stage.iterations, 3 / stage.iterations])
    assert told == sorted(told) and told[-1] <= 1
