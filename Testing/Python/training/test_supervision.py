"""Which structures a training observes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from VoxelMorphRegistrationLib.errors import InputError, SettingsError
from VoxelMorphRegistrationLib.training.supervision import BRAIN, Structure, Supervision, SupervisionSection, read_table


def test_every_structure_of_the_brain_is_observed_by_default():
    every = Supervision.of(SupervisionSection())
    assert every.count == len(every.observed) == 30
    assert every.unobserved == ()
    assert {s.label for s in BRAIN if s.group == "brainstem"} == {16, 28, 60}
    assert {s.label for s in BRAIN if s.group == "white matter"} == {2, 41, 7, 46}


@pytest.mark.parametrize(("choice", "least", "most"), [("one", 1, 2), ("half", 15, 16)])
def test_one_and_half_are_drawn_by_the_seed_with_both_sides(choice, least, most):
    draws = [Supervision.of(SupervisionSection(choice), seed) for seed in range(20)]
    assert {least, most} == {drawn.count for drawn in draws}
    assert len({drawn.names for drawn in draws}) > 3
    assert draws[7].names == Supervision.of(SupervisionSection(choice), 7).names
    for drawn in draws:
        assert not set(drawn.observed) & set(drawn.unobserved)
        assert len(drawn.observed) + len(drawn.unobserved) == 30
        for name in drawn.names:
            for side, other in (("left", "right"), ("right", "left")):
                assert not name.startswith(side) or name.replace(side, other, 1) in drawn.names


def test_coarse_groups_are_the_union_of_their_structures():
    coarse = Supervision.of(SupervisionSection("coarse"))
    assert sorted(coarse.names) == ["CSF", "brainstem", "grey matter", "white matter"]
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 70, (1, 1, 8, 6, 4)))
    shares = coarse.probabilities(labels)
    blocks = labels.numpy().reshape(4, 2, 3, 2, 2, 2)
    for channel, name in enumerate(coarse.names):
        members = [s.label for s in BRAIN if s.group == name]
        assert np.allclose(shares[0, channel].numpy(), np.isin(blocks, members).mean((1, 3, 5)))


def test_listed_labels_are_the_channels_and_all_others_are_none():
    listed = Supervision.of(SupervisionSection("list", (53, 17)))
    assert listed.names == ("left hippocampus", "right hippocampus")
    labels = torch.tensor([[17, 53, 2, 0, -4, 60, 61, 62, 99999]])
    assert listed.channels(labels).tolist() == [[1, 2, 0, 0, 0, 0, 0, 0, 0]]
    assert listed.channels(labels.float()).tolist() == [[1, 2, 0, 0, 0, 0, 0, 0, 0]]


def test_evaluation_has_a_channel_for_each_structure_in_the_order_of_the_table():
    half = Supervision.of(SupervisionSection("half"), 3)
    every = half.for_evaluation()
    assert every.observed == tuple(s.label for s in BRAIN)
    labels = torch.tensor([s.label for s in BRAIN])
    assert every.channels(labels).tolist() == list(range(1, 31))
    assert (half.channels(labels) > 0).sum() == half.count


def test_a_table_names_structures_and_groups(tmp_path):
    path = tmp_path / "organs.csv"
    path.write_text("label, name, group\n5, liver, organs\n900, L kidney, organs\n901, R kidney,\n", encoding="utf-8")
    assert read_table(path) == (
        Structure(5, "liver", "organs"),
        Structure(900, "L kidney", "organs"),
        Structure(901, "R kidney", ""),
    )
    coarse = Supervision.of(SupervisionSection("coarse", table="organs.csv"), folder=tmp_path)
    assert coarse.channels(torch.tensor([5, 900, 901])).tolist() == [1, 1, 0]
    assert coarse.unobserved == (901,)
    drawn = {Supervision.of(SupervisionSection("one", table=str(path)), seed).observed for seed in range(10)}
    assert drawn == {(5,), (900, 901)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\n1\n", "must be label,name"),
        ("label,name\n0,air\n", "line 2: give a label from 1"),
        ("label,name\n1.5,air\n", "line 2: give a label from 1"),
        ("label,name\n1,a\n1,b\n", "line 3: the label 1 or the name 'b' is there twice"),
        ("label,name\n1,a\n2,a\n", "line 3: the label 2 or the name 'a' is there twice"),
        ("", "must be label,name"),
    ],
)
def test_a_table_of_structures_with_a_fault_names_the_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.csv")


def test_choices_that_the_table_does_not_allow_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("label,name\n1,a\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="column group"):
        Supervision.of(SupervisionSection("coarse", table="t.csv"), folder=tmp_path)
    with pytest.raises(SettingsError, match="names 4, which is not in the table"):
        Supervision.of(SupervisionSection("list", (4,), "t.csv"), folder=tmp_path)
    with pytest.raises(InputError, match="There is no file .*none.csv"):
        Supervision.of(SupervisionSection(table="none.csv"), folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("some",), "structures must be one of"),
        (("list",), "goes with"),
        (("all", (2,)), "goes with"),
        (("list", (2, 2)), "twice"),
    ],
)
def test_a_wrong_setting_of_supervision_is_named(arguments, message):
    with pytest.raises(SettingsError, match=message):
        SupervisionSection(*arguments)
