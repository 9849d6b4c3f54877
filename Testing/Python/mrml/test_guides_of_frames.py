"""What guides a sequence and changes with its frames: what is refused, and what each frame is registered with."""

from __future__ import annotations

import numpy as np
import pytest

import mrml_cases as cases
import slicer
from frame_cases import GRID, POINTS, SHIFTS, add_guide, block, label_map, points, segmentation, t2
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml.frame_guides import FrameGuides, check_guides
from VoxelMorphRegistrationLib.mrml.names import SIDE_ROLES
from VoxelMorphRegistrationLib.registration.settings import Settings


@pytest.fixture
def breath(scene):
    """A sequence of four frames and its browser."""
    sequence, browser, _proxy = cases.add_sequence(scene, GRID, SHIFTS)
    return sequence, browser


def guides_of(sequence, given, frame=None):
    """(guides, what each hidden node was asked for)."""
    asked = []

    def add(class_name, name, shown):
        asked.append((class_name, name, shown))
        return slicer.mrmlScene.AddNewNodeByClass(class_name, name)

    return FrameGuides(sequence, given, frame, add), asked


def test_guides_that_go_with_the_frames_are_taken(breath):
    sequence, browser = breath
    carina = add_guide(browser, points, "Carina", (2, 3))
    stays = slicer.mrmlScene.AddNode(points(0))
    check_guides(sequence, {"movingPoints": carina, "fixedPoints": stays})
    check_guides(sequence, {"movingPoints": carina, "fixedPoints": carina, "furtherFixed": []}, 2)
    labels = add_guide(browser, segmentation, "Organs")
    check_guides(
        sequence, {"movingLabels": labels, "movingMask": labels, "furtherMoving": [add_guide(browser, t2, "T2")]}
    )


@pytest.mark.parametrize(
    ("name", "frame", "sentence"),
    [
        ("movingMask: Alone", None, "The moving mask 'Alone' belongs to one frame"),
        ("furtherMoving: Alone", None, "The moving volume 2 'Alone' belongs to one frame"),
        ("fixedPoints: Carina", None, "The fixed landmarks 'Carina' changes with the frames"),
        ("fixedPoints: Late", 1, "The fixed landmarks 'Late' has nothing for frame 2 of 4 .time 0.5 s."),
        ("movingLabels: Carina", 1, "The moving segmentation 'Carina' shows a sequence of another kind"),
        ("furtherFixed: Carina", 1, "The fixed volume 2 'Carina' shows a sequence of another kind"),
        ("movingPoints: Other", None, "an item for none of the frames: the index values of 'Other' are others than"),
        ("movingPoints: Empty", None, "an item for none of the frames"),
    ],
)
def test_guides_that_do_not_go_with_the_frames_are_refused(breath, scene, name, frame, sentence):
    sequence, browser = breath
    scene.AddNode(label_map(0)).SetName("Alone")
    add_guide(browser, points, "Carina")
    add_guide(browser, points, "Late", (0, 2, 3))
    scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Other").SetDataNodeAtValue(points(0), "77")
    scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Empty")
    argument, title = name.split(": ")
    found = [n for n in slicer.util.getNodesByClass("vtkMRMLNode") if n.GetName() == title]
    node = next(n for n in found if not n.IsA("vtkMRMLSequenceNode") or len(found) == 1)
    with pytest.raises(InputError, match=sentence):
        check_guides(sequence, {argument: [node] if argument.startswith("further") else node}, frame)


def test_hidden_nodes_have_the_content_of_the_frame_and_lie_where_theirs_lie(breath):
    sequence, browser = breath
    carina, organs = add_guide(browser, points, "Carina"), add_guide(browser, label_map, "Organs")
    guides, asked = guides_of(sequence, {"movingPoints": carina, "movingMask": organs})
    assert sorted(asked, key=lambda one: one[1]) == [
        ("vtkMRMLMarkupsFiducialNode", "Carina", carina),
        ("vtkMRMLLabelMapVolumeNode", "Organs", organs),
    ]
    for number in (3, 1):
        guides.show(number)
        given = guides.arguments(number)
        np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(given["movingPoints"]), POINTS + number)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(given["movingMask"]), block(number))
    assert set(guides.nodes) == set(given.values())


def test_a_sequence_is_shown_by_the_node_of_its_browser_and_needs_none(breath, scene):
    sequence, browser = breath
    organs = add_guide(browser, segmentation, "Organs")
    own = browser.GetSequenceNode(organs)
    guides, asked = guides_of(sequence, {"movingLabels": own})
    assert asked == [("vtkMRMLSegmentationNode", "Organs", organs)] and guides.shown_labels() is organs
    assert guides.moving_labels_class() == "vtkMRMLSegmentationNode"
    assert guides_of(sequence, {"movingLabels": organs})[0].shown_labels() is organs
    alone = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Alone")
    alone.SetDataNodeAtValue(label_map(0), "0")
    guides, asked = guides_of(sequence, {"movingLabels": alone})
    assert asked == [("vtkMRMLLabelMapVolumeNode", "Alone", None)] and guides.shown_labels() is None
    without, _ = guides_of(sequence, {"movingPoints": add_guide(browser, points, "Carina")})
    assert without.moving_labels_class() == "" and without.shown_labels() is None


def test_a_frame_goes_without_what_it_lacks_on_both_sides_and_says_so(breath, scene):
    sequence, browser = breath
    given = {
        "movingLabels": add_guide(browser, segmentation, "Organs", (0, 2)),
        "fixedLabels": scene.AddNode(label_map(0)),
        "movingPoints": add_guide(browser, points, "Carina", (1, 2)),
        "fixedPoints": scene.AddNode(points(0)),
        "movingMask": add_guide(browser, label_map, "Mask", (1, 2)),
        "fixedMask": scene.AddNode(label_map(1)),
        "furtherMoving": [add_guide(browser, t2, "T2"), add_guide(browser, t2, "PD", (1, 2))],
        "furtherFixed": [scene.AddNode(t2(0)), scene.AddNode(t2(1))],
    }
    check_guides(sequence, given)
    guides, _ = guides_of(sequence, given)
    named = {number: set(guides.arguments(number)) for number in range(4)}
    both, further = {"fixedMask"}, {"furtherMoving", "furtherFixed"}
    labels, marks = {"movingLabels", "fixedLabels"}, {"movingPoints", "fixedPoints"}
    # A mask of one side means the same without the other's.
    assert named[0] == both | further | labels
    assert named[1] == both | further | marks | {"movingMask"}
    assert named[2] == both | further | marks | labels | {"movingMask"}
    assert named[3] == both | further
    assert [len(guides.arguments(number)["furtherFixed"]) for number in range(4)] == [1, 2, 2, 1]
    assert guides.arguments(3)["furtherFixed"] == given["furtherFixed"][:1]
    assert guides.lacking(2) == ""
    assert guides.lacking(1) == "The moving segmentation 'Organs' has no such frame."
    words = "The moving landmarks 'Carina' and the moving mask 'Mask' and the moving volume 3 'PD' have no such frame."
    assert guides.lacking(0) == words
    asked = Settings(
        label_weight=2.0,
        landmark_weight=3.0,
        channel_weights=(1.0, 4.0, 5.0),
        channel_similarities=("lncc", "mse", "mind"),
    )
    found = [guides.settings(asked, number) for number in range(4)]
    assert [(one.label_weight, one.landmark_weight) for one in found] == [
        (2.0, 0.0),
        (0.0, 3.0),
        (2.0, 3.0),
        (0.0, 0.0),
    ]
    assert [one.channel_weights for one in found] == [(1.0, 4.0), (1.0, 4.0, 5.0), (1.0, 4.0, 5.0), (1.0, 4.0)]
    assert found[0].channel_similarities == ("lncc", "mse") and found[2].channel_similarities[2] == "mind"


def test_onto_a_frame_the_fixed_guide_is_that_of_the_frame_whatever_is_shown(breath):
    sequence, browser = breath
    carina = add_guide(browser, points, "Carina")
    guides, _ = guides_of(sequence, {"fixedPoints": carina, "movingPoints": carina}, 2)
    guides.show(0)
    given = guides.arguments(0)
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(given["fixedPoints"]), POINTS + 2)
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(given["movingPoints"]), POINTS)


def test_the_sides_of_the_result_are_the_nodes_that_were_given(breath, scene):
    sequence, browser = breath
    organs, stays = add_guide(browser, segmentation, "Organs"), scene.AddNode(label_map(0))
    alone = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Alone")
    alone.SetDataNodeAtValue(points(0), "0")
    removed = scene.AddNode(label_map(1))
    given = {"movingLabels": organs, "fixedLabels": stays, "movingPoints": alone, "fixedMask": removed}
    guides, _ = guides_of(sequence, given)
    scene.RemoveNode(removed)
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    transform.AddNodeReferenceID(SIDE_ROLES["fixed"], organs.GetID())
    guides.mark_sides(transform)
    for side, expected in (("fixed", stays), ("moving", organs)):
        role = SIDE_ROLES[side]
        assert [transform.GetNthNodeReference(role, n) for n in range(transform.GetNumberOfNodeReferences(role))] == [
            expected
        ]
