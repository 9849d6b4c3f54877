"""Scenes of strangers: what is no record of a registration is refused in a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mrml_cases as cases
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml import applying, check_views, display, records
from VoxelMorphRegistrationLib.mrml.names import (
    PARENT_ATTRIBUTE,
    PLACES_ATTRIBUTE,
    REPORT_ATTRIBUTE,
    START_ATTRIBUTE,
)
from VoxelMorphRegistrationLib.mrml.pinned import carried_to_moving, start_from
from VoxelMorphRegistrationLib.mrml.results import moved_since
from VoxelMorphRegistrationLib.mrml.view_state import OUTLINE_ATTRIBUTE, QUIET_ATTRIBUTE, restore_fill, restore_outline
from VoxelMorphRegistrationLib.mrml.writer import write_outputs

MATRICES = {
    "no JSON": "{",
    "deep": "[" * 100_000,
    "null": "null",
    "a number": "3",
    "a text": '"identity"',
    "an object": '{"a": 1}',
    "of another size": "[[1, 0], [0, 1]]",
    "rows of other lengths": "[[1, 0, 0, 0], [0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]",
    "of texts": json.dumps([["a"] * 4] * 4),
    "NaN": json.dumps([[float("nan")] * 4] * 4),
    "flat": json.dumps(np.diag([1, 1, 0, 1]).tolist()),
}
REPORTS = {
    **{name: text for name, text in MATRICES.items() if name not in ("NaN",)},
    "empty": "{}",
    "similarity in words": '{"similarity": "good"}',
    "of numbers": json.dumps({"similarity": 1, "folding": 2, "seconds": 3, "settings": 4}),
    "texts for numbers": {"similarity": {"after": {"ncc": "<b>1</b>"}}},
    "landmarks of one stage": {"tre_mm": {"after": {"mean": 1.0, "max": 2.0, "each": [1.0]}}},
    "warnings that are no texts": {"warnings": [1, 2]},
    "warnings in one text": {"warnings": "beware"},
    "Dice without structures": {"dice": {"before": None, "aligned": None, "after": None}},
}


@pytest.fixture
def written(scene):
    read, registration = cases.prepared(scene)
    return write_outputs(registration, read)


def refused(call) -> None:
    with pytest.raises(InputError, match=r"cannot be used: .* or it is damaged"):
        call()


@pytest.mark.parametrize("name", MATRICES)
def test_a_damaged_matrix_is_refused_wherever_it_is_used(name, written):
    node = written.grid_transform
    source = node.GetNodeReference(node.GetMovingNodeReferenceRole())
    node.SetAttribute(PARENT_ATTRIBUTE, MATRICES[name])
    for call in (
        lambda: applying.stored(node),
        lambda: applying.inverse_job(node),
        lambda: carried_to_moving(node, (0, 0, 0)),
        lambda: start_from(node),
        lambda: applying.apply_transform(node, [source]),
    ):
        refused(call)
    node.SetAttribute(START_ATTRIBUTE, json.dumps(np.eye(4).tolist()))
    refused(lambda: check_views.show_before_after(source, written.volume, node))


@pytest.mark.parametrize("name", MATRICES)
def test_places_that_nobody_can_read_count_as_others(name, written):
    node = written.grid_transform
    assert moved_since(node) == []
    node.SetAttribute(PLACES_ATTRIBUTE, MATRICES[name])
    assert moved_since(node) == ["fixed", "moving"]


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_of_another_kind_is_refused(name, written):
    node, change = written.grid_transform, REPORTS[name]
    whole = json.loads(node.GetAttribute(REPORT_ATTRIBUTE))
    assert records.report_of(node) == whole
    node.SetAttribute(REPORT_ATTRIBUTE, json.dumps({**whole, **change}) if isinstance(change, dict) else change)
    refused(lambda: records.report_of(node))


def test_the_linear_part_of_a_report_is_a_matrix(written):
    node = written.grid_transform
    whole = json.loads(node.GetAttribute(REPORT_ATTRIBUTE))
    node.SetAttribute(REPORT_ATTRIBUTE, json.dumps({**whole, "linear": [[1, 2], [3, 4]]}))
    refused(lambda: applying.stored(node))


def test_without_a_report_there_is_none(scene):
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "empty")
    assert records.report_of(node) == records.report_of(None) == {}


@pytest.mark.parametrize("text", ["wide", "nan", "-1", "1e9", "[1]", "{"])
def test_colours_of_another_hand_are_made_anew(text, scene):
    fixed, _ = cases.make_nodes(scene)
    node = display.jacobian_color_node(scene)
    node.SetAttribute(display.JACOBIAN_COLORS_ATTRIBUTE, text)
    display.show_as_jacobian(fixed)
    assert display.jacobian_color_node(scene) is node
    assert node.GetAttribute(display.JACOBIAN_COLORS_ATTRIBUTE) == "1"


def test_a_look_to_go_back_to_sets_nothing_else(scene):
    fixed, _ = cases.make_nodes(scene)
    node = cases.add_segmentation(scene, fixed)
    node.CreateDefaultDisplayNodes()
    shown = node.GetDisplayNode()
    strange = {"Name": "changed", "Visibility2DOutline": 0, "Opacity2DOutline": "much", "SliceIntersectionThickness": 4}
    for attribute, restore in ((QUIET_ATTRIBUTE, lambda: restore_fill(shown)), (OUTLINE_ATTRIBUTE, None)):
        name = shown.GetName()
        for text in (json.dumps(strange), "{", "[1]", "null", '{"Opacity2DOutline": 1e400}'):
            shown.SetVisibility2DOutline(True)
            shown.SetAttribute(attribute, text)
            (restore or (lambda: restore_outline(node)))()
            assert shown.GetAttribute(attribute) is None
            assert shown.GetName() == name
        shown.SetAttribute(attribute, json.dumps(strange))
        (restore or (lambda: restore_outline(node)))()
        assert (shown.GetVisibility2DOutline(), shown.GetSliceIntersectionThickness()) == (0, 4)
