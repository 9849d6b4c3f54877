"""Further volumes of each side: their rows in the panel, what reaches the worker, and what stands against a start."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import panel_cases as press
import qt
import slicer
import worker_cases
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.panel.frames import FRAMES
from VoxelMorphRegistrationLib.panel.further import PAIRS
from VoxelMorphRegistrationLib.registration.settings import Settings

GRID = cases.FIXED_GRIDS["anisotropic left-handed"]


@pytest.fixture
def sides(swift_panel, scene):
    """The panel with T2 and FLAIR of both sides in the scene: (widget, {name: volume})."""
    widget, *_ = swift_panel
    names = ("T2 now", "T2 then", "FLAIR now", "FLAIR then")
    nodes = {name: cases.add_volume(cases.blobs(GRID, seed), GRID, name) for seed, name in enumerate(names)}
    worker_cases.spin(lambda: not widget._nodesTimer.active)
    return widget, nodes


def choose(widget, n: int, fixed, moving) -> None:
    """By the lists of row n."""
    for side, node in (("Fixed", fixed), ("Moving", moving)):
        getattr(widget.ui, f"further{side}{n}Selector").setCurrentNode(node)


def shown_rows(widget) -> list[int]:
    return [n for n in PAIRS if not getattr(widget.ui, f"furtherFixed{n}Selector").isHidden()]


def test_a_row_more_than_is_filled_is_shown(sides):
    widget, nodes = sides
    ui = widget.ui
    assert shown_rows(widget) == [1] and ui.furtherWeight1SpinBox.isHidden()
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    assert shown_rows(widget) == [1, 2] and not ui.furtherWeight1SpinBox.isHidden()
    assert ui.furtherCollapsibleButton.text == "Further volumes (1 of each side)"
    choose(widget, 2, nodes["FLAIR now"], None)
    assert shown_rows(widget) == [1, 2] and "(1 of each side)" in ui.furtherCollapsibleButton.text
    choose(widget, 2, nodes["FLAIR now"], nodes["FLAIR then"])
    assert shown_rows(widget) == [1, 2, 3] and "(2 of each side)" in ui.furtherCollapsibleButton.text
    choose(widget, 1, None, None)
    assert shown_rows(widget) == [1, 2] and "optional" not in ui.furtherCollapsibleButton.text
    choose(widget, 2, None, None)
    assert shown_rows(widget) == [1] and "optional" in ui.furtherCollapsibleButton.text


def test_further_volumes_reach_the_worker_where_they_lie_and_with_their_weights(sides, standin, scene):
    widget, nodes = sides
    tilted = cases.affine(cases.rotation(10, -20, 30), (4, 5, -6))
    cases.add_parent(scene, nodes["FLAIR then"], tilted)
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    choose(widget, 2, nodes["FLAIR now"], nodes["FLAIR then"])
    widget.ui.furtherWeight2SpinBox.value = 2.5
    press.press_and_wait(widget)
    job = standin.jobs[-1]
    assert [image.name for image in job.fixed[1:]] == ["fixed volume 2 'T2 now'", "fixed volume 3 'FLAIR now'"]
    assert [image.name for image in job.moving[1:]] == ["moving volume 2 'T2 then'", "moving volume 3 'FLAIR then'"]
    assert job.fixed[0].name == "fixed volume 'Fixed'" and job.settings.channel_weights == (1.0, 1.0, 2.5)
    assert job.moving[2].grid.same_as(GRID.transformed(tilted)) and job.moving[1].grid.same_as(GRID)
    np.testing.assert_array_equal(job.moving[2].array, slicer.util.arrayFromVolume(nodes["FLAIR then"]))
    widget.ui.furtherWeight2SpinBox.value = 1.0
    assert widget.settings() == Settings()


@pytest.mark.parametrize(
    ("chosen", "refinement", "sentence"),
    [
        (("T2 now", None), "auto", "A fixed volume 2 is chosen without a moving one"),
        ((None, "T2 then"), "auto", "A moving volume 2 is chosen without a fixed one"),
        (("T2 now", "T2 now"), "auto", "Fixed and moving volume 2 are the same"),
        (("Fixed", "Moving"), "auto", "The volumes 2 are compared already"),
        (("T2 now", "T2 then"), "off", "Further volumes guide the refinement, which is off"),
    ],
)
def test_what_stands_against_a_start_is_said(sides, chosen, refinement, sentence):
    widget, _nodes = sides
    widget._parameterNode.refinement = refinement
    choose(widget, 1, *(None if name is None else slicer.util.getNode(name) for name in chosen))
    assert not widget.ui.registerButton.enabled and sentence in widget.ui.hintLabel.text
    choose(widget, 1, None, None)
    assert widget.ui.registerButton.enabled


def test_a_further_volume_under_a_deformation_is_named(sides, standin, scene, caplog):
    widget, nodes = sides
    press.press_and_wait(widget)
    nodes["T2 then"].SetAndObserveTransformNodeID(widget._parameterNode.outputTransform.GetID())
    widget._parameterNode.outputTransform = None
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    press.press_and_wait(widget)
    assert "moving volume 2 'T2 then' is under a non-linear transform" in press.told_texts(caplog)
    assert len(standin.jobs) == 1


def test_a_volume_that_is_deleted_leaves_its_row_and_does_not_end_a_run(sides, standin, scene):
    widget, nodes = sides
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    widget.ui.registerButton.click()
    worker_cases.spin(lambda: len(standin.jobs) == 1)
    scene.RemoveNode(nodes["T2 then"])
    press.wait(widget)
    assert widget._parameterNode.outputTransform is not None and len(standin.jobs[0].moving) == 2
    worker_cases.spin(lambda: not widget._nodesTimer.active)
    assert widget._parameterNode.furtherMoving1 is None
    assert "chosen without a moving one" in widget.ui.hintLabel.text


def test_choices_beside_another_pair_are_left_and_it_says_so(sides, scene):
    widget, nodes = sides
    parameters, ui = widget._parameterNode, widget.ui
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    ui.movingVolumeSelector.setCurrentNode(None)
    assert parameters.furtherMoving1 is nodes["T2 then"]
    ui.movingVolumeSelector.setCurrentNode(nodes["FLAIR then"])
    assert parameters.furtherFixed1 is None and parameters.furtherMoving1 is None
    assert "belonged to the former pair" in ui.furtherLabel.text and not ui.furtherLabel.isHidden()
    assert not ui.furtherCollapsibleButton.collapsed
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    assert ui.furtherLabel.isHidden()


def test_choices_change_sides_with_the_pair_and_come_back_with_the_scene(sides, scene):
    widget, nodes = sides
    parameters = widget._parameterNode
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    pair = parameters.fixedVolume, parameters.movingVolume
    with slicer.util.NodeModify(parameters):
        parameters.fixedVolume, parameters.movingVolume = pair[::-1]
    assert (parameters.furtherFixed1, parameters.furtherMoving1) == (nodes["T2 then"], nodes["T2 now"])
    assert widget.ui.furtherLabel.isHidden()
    widget.exit()
    widget.enter()
    assert parameters.furtherFixed1 is nodes["T2 then"]


def test_further_volumes_tell_their_side_and_guide_an_improvement(sides, standin, scene):
    widget, nodes = sides
    parameters = widget._parameterNode
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    press.press_and_wait(widget)
    items = [widget.ui.applyList.item(n).text() for n in range(widget.ui.applyList.count)]
    assert "T2 now (inverse)" in items and "T2 then" in items
    press.choose_landmarks(scene, parameters)
    widget.ui.improveButton.click()
    press.wait(widget)
    assert len(standin.jobs) == 2 and len(standin.jobs[1].fixed) == 2


def test_more_volumes_take_longer(sides, standin):
    widget, nodes = sides
    # A slow computer, so that these small volumes take many minutes.
    standin.facts = {**standin.facts, "speed": {"cpu": 900.0}}
    widget.updateFromParameterNode()
    texts = [widget.ui.hintLabel.text]
    for n, moving in zip(PAIRS, ("T2 then", "FLAIR then", "FLAIR now"), strict=True):
        choose(widget, n, nodes["T2 now"], nodes[moving])
        texts.append(widget.ui.hintLabel.text)
    assert all(text.startswith("Takes about") for text in texts) and len(set(texts)) == 4


def test_of_all_frames_one_volume_is_none_and_it_says_so(sides, scene):
    widget, nodes = sides
    _sequence, _browser, proxy = cases.add_sequence(scene, GRID, ((0.0, 0.0, 0.0), (2.0, 0.0, 0.0)))
    worker_cases.spin(lambda: not widget._nodesTimer.active)
    widget._parameterNode.movingVolume = proxy
    widget._parameterNode.frames = [*FRAMES][1]
    choose(widget, 1, nodes["T2 now"], nodes["T2 then"])
    assert (
        not widget.ui.registerButton.enabled
        and "The moving volume 2 'T2 then' belongs to one frame" in widget.ui.hintLabel.text
    )


# --- the console ----------------------------------------------------------------------------------------------------


def test_console_takes_any_number_and_one_alone(sides, module, standin):
    _widget, nodes = sides
    pair = slicer.util.getNode("Fixed"), slicer.util.getNode("Moving")
    logic = module.VoxelMorphRegistrationLogic()
    logic.register(*pair, furtherFixed=nodes["T2 now"], furtherMoving=[nodes["T2 then"]])
    logic.register(*pair, furtherFixed=[nodes["T2 now"]] * 4, furtherMoving=[*nodes.values()][1:] + [pair[1]])
    assert [len(job.fixed) for job in standin.jobs] == [2, 5]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"furtherFixed": "T2 now"}, "There are 1 further fixed and 0 further moving volumes"),
        ({"furtherFixed": ["T2 now"], "furtherMoving": ["T2 now"]}, "'T2 now' is chosen both as fixed and as moving"),
        (
            {"furtherFixed": ["T2 now"], "furtherMoving": ["T2 then"], "outputVolume": "T2 then"},
            "'T2 then' is also an input",
        ),
        ({"furtherFixed": "a text", "furtherMoving": "a text"}, "fixed volume 2 is given as the text 'a text'"),
    ],
)
def test_console_refuses_what_does_not_go_together(sides, module, standin, scene, arguments, sentence):
    _widget, nodes = sides

    def meant(value):
        return [nodes[one] for one in value] if isinstance(value, list) else nodes.get(value, value)

    before = cases.scene_state(scene)
    with pytest.raises(InputError, match=sentence):
        module.VoxelMorphRegistrationLogic().register(
            slicer.util.getNode("Fixed"),
            slicer.util.getNode("Moving"),
            **{name: meant(value) for name, value in arguments.items()},
        )
    assert cases.scene_state(scene) == before and standin.jobs == []
    qt.application.processEvents()


def test_console_refuses_a_further_volume_that_left_the_scene(sides, module, scene):
    _widget, nodes = sides
    scene.RemoveNode(nodes["T2 then"])
    with pytest.raises(InputError, match="moving volume 2 'T2 then' is not in the scene"):
        module.VoxelMorphRegistrationLogic().register(
            slicer.util.getNode("Fixed"),
            slicer.util.getNode("Moving"),
            furtherFixed=[nodes["T2 now"]],
            furtherMoving=[nodes["T2 then"]],
        )
