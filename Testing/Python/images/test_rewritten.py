"""Landmark files with other positions: all else stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from VoxelMorphRegistrationLib.images.landmark_tables import read_table
from VoxelMorphRegistrationLib.images.landmarks import Fcsv

NEW = [[10.0, -20.5, 30.25], [1.0, 2.0, 3.0], [-4.0, 5.0, 6.125]]


def test_a_table_keeps_its_words_its_frame_and_its_gaps():
    table = read_table("name;L;P;S;note\na;1;2;3;x\ngap;;;;y\nb;4,5;5;6;\n")
    text = table.rewritten(NEW)
    assert text.splitlines() == [
        "name;L;P;S;note",
        # L and P are RAS with the other sign.
        "a;-10;20.5;30.25;x",
        "gap;;;;y",
        # A decimal comma where there was one.
        "b;4;-5;6.125;",
    ]
    assert text.endswith("\n")


def test_decimal_commas_stay_commas():
    text = read_table("x;y;z\n1,5;2,5;3\n").rewritten([[0.5, -0.25, 1.75]])
    assert text == "x;y;z\n0,5;-0,25;1.75\n"


def test_a_table_whose_rows_run_over_lines_is_left():
    with pytest.raises(ValueError, match="several lines"):
        read_table('name,x,y,z\n"a\nb",1,2,3\n').rewritten([[0, 0, 0]])


def test_a_list_of_slicer_keeps_its_head_its_frame_and_what_is_not_placed():
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz\n"
    rest = "0,0,0,1,1,1,0,P,words"
    text = f"{head}a,1,2,3,{rest},,2,0\nb,7,8,9,{rest},,0,0\n"
    found = Fcsv.of(text)
    result = found.rewritten([NEW[0], NEW[1]])
    assert result.startswith(head)
    first, second = result.splitlines()[3:]
    assert first == f"a,-10,20.5,30.25,{rest},,2,0"
    assert second == f"b,7,8,9,{rest},,0,0"
    again = Fcsv.of(result).found()
    assert np.allclose(again[0][0], NEW[0]) and np.isnan(again[1][0]).all()
