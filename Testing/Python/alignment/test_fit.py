"""The fit by SimpleITK: how far a map moved, and how far it has come."""

import _thread
import signal
import threading

import numpy as np
import pytest
import SimpleITK as sitk

from alignment_cases import axial, distance, motion_of
from VoxelMorphRegistrationLib.alignment import align as aligning
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


@pytest.mark.parametrize("clear", [True, False])
def test_a_quick_alignment_leaves_the_finest_rigid_stage_out_where_edges_are_clear(clear, monkeypatch):
    motion = motion_of((0, 0, 0.06), (5, -4, 0), (1.03, 0.98, 1))
    fixed, moving = axial(), axial(motion)
    monkeypatch.setattr(aligning, "NEAR_EVIDENCE", -1.0 if clear else 1e9)
    monkeypatch.setattr(aligning, "SURE_EVIDENCE", 1e9)
    made, refined = [], Sitk.refined
    monkeypatch.setattr(Sitk, "refined", lambda *args: made.append(args[3]) or refined(*args))
    found = aligning.align(fixed, moving, "affine", quick=True)
    assert (STAGES["rigid"][-1] not in made) == clear and STAGES["affine"][-1] in made
    assert distance(found.matrix, motion) < 2.0


def test_an_interrupt_while_itk_runs_ends_the_alignment(monkeypatch):
    """Its signal is handled where Python is entered again, before anything there can catch it."""
    moving = axial(motion_of((0, 0, 0.06), (5, -4, 0), (1.03, 0.98, 1)))
    execute = sitk.ImageRegistrationMethod.Execute

    def interrupted(method, *images):
        method.AddCommand(sitk.sitkStartEvent, lambda: threading.Timer(1e-4, _thread.interrupt_main).start())
        return execute(method, *images)

    monkeypatch.setattr(sitk.ImageRegistrationMethod, "Execute", interrupted)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            aligning.align(axial(), moving, "affine")
    finally:
        signal.signal(signal.SIGINT, former)
