"""Landmarks: where they are, which are placed, and which of two lists belong together."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.images.landmarks import Landmarks, paired, read_landmarks, read_points

POINTS = [[10.0, 20.0, 30.0], [-5.0, 8.0, 12.5], [3.0, -7.0, 1.0]]
ROWS = [",".join(map(str, point)) for point in POINTS]


def table(tmp_path, text, suffix=".csv", encoding="utf-8"):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(text.encode(encoding))
    return path


def lines(*rows) -> str:
    return "".join(f"{row}\n" for row in rows)


def with_numbers(form, points=POINTS) -> list[str]:
    return [form.format(n=n, x=x, y=y, z=z, l=-x, p=-y, i=-z) for n, (x, y, z) in enumerate(points)]


RIGHT = {
    "head": lines("x,y,z", *ROWS),
    "no head": lines(*ROWS),
    "blanks": lines("x y z", *with_numbers("{x}  {y} \t {z}")),
    "tabs": lines("x\ty\tz", *with_numbers("{x}\t{y}\t{z}")),
    "semicolons": lines("x;y;z", *with_numbers("{x};{y};{z}")),
    "bars": lines("x|y|z", *with_numbers("{x}|{y}|{z}")),
    "commas and blanks": lines("x, y, z", *with_numbers("{x}, {y}, {z}")),
    "decimal commas": lines("x;y;z", *(row.replace(",", ";").replace(".", ",") for row in ROWS)),
    "decimal commas and blanks": lines(*(row.replace(",", " ").replace(".", ",") for row in ROWS)),
    "decimal commas and tabs": lines("x\ty\tz", *(row.replace(",", "\t").replace(".", ",") for row in ROWS)),
    "commented head": lines("# x,y,z", *ROWS),
    "comments": lines("# made by hand", "% twice", "x,y,z", *ROWS),
    "Excel's hint": lines("sep=;", "x;y;z", *with_numbers("{x};{y};{z}")),
    "Windows lines": lines("x,y,z", *ROWS).replace("\n", "\r\n"),
    "blank lines": lines("", "x,y,z", "", *ROWS, ""),
    "trailing delimiter": lines("x,y,z,", *(f"{row}," for row in ROWS)),
    "large letters, units": lines("X (mm),Y (mm),Z (mm)", *ROWS),
    "units behind": lines("x_mm,y_mm,z_mm", *ROWS),
    "other order": lines("z,note,x,y", *with_numbers("{z},,{x},{y}")),
    "ras": lines("r,a,s", *ROWS),
    "lps": lines("L,P,S", *with_numbers("{l},{p},{z}")),
    "lai": lines("l,a,i", *with_numbers("{l},{y},{i}")),
    "x_lps": lines("x_lps,y_lps,z_lps", *with_numbers("{l},{p},{z}")),
    "x (LPS)": lines("x (LPS),y (LPS),z (LPS)", *with_numbers("{l},{p},{z}")),
    "x_ras": lines("x_ras,y_ras,z_ras", *ROWS),
    "quoted": lines('"x","y","z"', *with_numbers('"{x}","{y}","{z}"')),
    "label with a blank": lines("label,x,y,z", *with_numbers("Point {n},{x},{y},{z}")),
    "label with a comma": lines("label,x,y,z", *with_numbers('"a, {n}",{x},{y},{z}')),
    "empty cells": lines("id,note,x,y,z,visible", *with_numbers("{n},,{x},{y},{z},1")),
    "one empty cell": lines("id,note,x,y,z", "0,ok," + ROWS[0], "1,," + ROWS[1], "2,ok," + ROWS[2]),
    "index of pandas": lines(",x,y,z", *with_numbers("{n},{x},{y},{z}")),
    "row names of R": lines("x y z", *with_numbers('"{n}" {x} {y} {z}')),
    "numbers first": lines(*with_numbers("{n},{x},{y},{z}")),
    "label first, no head": lines(*with_numbers("tip {n},{x},{y},{z}")),
    "label last, no head": lines(*with_numbers("{x},{y},{z},tip {n}")),
    "Slicer": lines(
        '"label","l","p","s","defined","selected","visible","locked","description"',
        *with_numbers('"F-{n}",{l},{p},{z},1,1,1,0,""'),
    ),
    "trailing commas": lines("x,y,z", ROWS[0], ROWS[1] + ",", ROWS[2] + ",,"),
    "exponents": lines("x,y,z", "1e1,2.0E+01,30", *ROWS[1:]),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_tables_are_read_to_their_positions(kind, tmp_path):
    np.testing.assert_array_equal(read_points(table(tmp_path, RIGHT[kind])), POINTS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_other_programs(encoding, tmp_path):
    text = lines("label,x,y,z", *with_numbers("Ä {n},{x},{y},{z}"))
    found = read_landmarks(table(tmp_path, text, encoding=encoding))
    assert found.labels == ("Ä 0", "Ä 1", "Ä 2")
    np.testing.assert_array_equal(found.points, POINTS)


UNCLEAR = {
    "nothing": ("", "no points"),
    "a head alone": ("x,y,z\n", "no points"),
    "four numbers": (lines(*with_numbers("{x},{y},{z},{n}")), "4 columns of numbers"),
    "numbers that do not count": (lines(*with_numbers("7,{x},{y},{z}")), "4 columns of numbers"),
    "decimal commas between commas": (lines("1,5,2,5,3,5", "2,5,3,5,4,5"), "6 columns of numbers"),
    "two numbers": (lines("x,y", "1,2"), "no columns x, y, z"),
    "voxels": (lines("i,j,k", *ROWS), "voxel numbers"),
    "centimetres": (lines("x (cm),y (cm),z (cm)", *ROWS), "positions are in cm"),
    "ANTs, whose x and y are those of LPS": (
        lines("x,y,z,t,label", *with_numbers("{l},{p},{z},0,{n}")),
        "name them l, p, s",
    ),
    "two frames": (lines("x_ras,y_lps,z_ras", *ROWS), "different frames"),
    "columns twice": (lines("x,y,z,x", *with_numbers("{x},{y},{z},{x}")), "several columns"),
    "half a point": (lines("x,y,z", ROWS[0], "1,,3"), "row 3 lacks a coordinate"),
    "a word": (lines("x,y,z", ROWS[0], "1,two,3"), "row 3 has a coordinate that is no number"),
    "an infinite one": (lines("x,y,z", ROWS[0], "1,inf,3"), "no number"),
    "a cell too many": (lines("x,y,z,note", ROWS[0] + ",a", ROWS[1] + ",b,c"), "row 3 has 5 cells, and 4 are due"),
    "a cell too few": (lines("note,x,y,z", "a," + ROWS[0], ROWS[1]), "row 3 has 3 cells"),
    "LPS in a comment": (lines("# LPS", "x,y,z", *ROWS), "speaks of LPS"),
    "numbers as a head": (lines("0,1,2", *ROWS), "numbers of columns"),
    "numbers as a head with an index": (lines(",0,1,2", *with_numbers("{n},{x},{y},{z}")), "numbers of columns"),
    "thousands": (lines("x;y;z", "1.234,5;2;3"), "no number"),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_is_unclear_is_said_and_not_guessed(kind, tmp_path):
    text, words = UNCLEAR[kind]
    with pytest.raises(InputError, match=words):
        read_points(table(tmp_path, text))


def test_points_that_are_not_placed_are_gaps(tmp_path):
    text = lines("label,x,y,z", f"a,{ROWS[0]}", "b,,,", "c,nan,NaN,nan", f"d,{ROWS[1]}")
    found = read_landmarks(table(tmp_path, text))
    assert found.placed.tolist() == [True, False, False, True]
    assert found.labels == ("a", "b", "c", "d")
    text = lines('"label","l","p","s","defined"', *with_numbers('"F-{n}",{l},{p},{z},{n}'))
    assert read_landmarks(table(tmp_path, text)).placed.tolist() == [False, True, True]
    for head in ("status", "Status", "positionStatus", "position_status"):
        text = lines(f"label,x,y,z,{head}", f"a,{ROWS[0]},defined", "b,0,0,0,undefined", "c,0,0,0,preview")
        assert read_landmarks(table(tmp_path, text)).placed.tolist() == [True, False, False], head


def markups(tmp_path, name="a.mrk.json", system="LPS", unset=(), order=range(3), **parts):
    controls = [
        {
            "label": f"F-{n}",
            "position": POINTS[n] if system in ("RAS", "0") else [-POINTS[n][0], -POINTS[n][1], POINTS[n][2]],
            "positionStatus": "undefined" if n in unset else "defined",
        }
        for n in order
    ]
    path = tmp_path / name
    path.write_text(json.dumps({"markups": [{"coordinateSystem": system, "controlPoints": controls, **parts}]}))
    return path


@pytest.mark.parametrize("system", ["LPS", "RAS", "0", "1"])
def test_markups_state_their_frame_and_status(system, tmp_path):
    found = read_landmarks(markups(tmp_path, system=system, unset=(1,)))
    np.testing.assert_array_equal(found.points, [POINTS[0], [math.nan] * 3, POINTS[2]])
    assert found.labels == ("F-0", "F-1", "F-2")


@pytest.mark.parametrize("position", ["", None, []])
def test_a_control_point_without_a_position_is_a_gap(position, tmp_path):
    control = [{"label": "a", "position": position}, {"label": "b", "position": [1, 2, 3]}]
    path = markups(tmp_path, controlPoints=control)
    assert read_landmarks(path).placed.tolist() == [False, True]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"coordinateUnits": "cm"}, "cm"),
        ({"coordinateSystem": "IJK"}, "IJK"),
        ({"controlPoints": []}, "no placed points"),
        ({"controlPoints": [{"position": [1, 2]}]}, "cannot be read"),
        ({"controlPoints": [{"position": "abc"}]}, "cannot be read"),
        ({"controlPoints": None}, "cannot be read"),
    ],
)
def test_damaged_markups_are_refused(parts, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read_landmarks(markups(tmp_path, **parts))


def test_a_number_larger_than_any_position_is_refused(tmp_path):
    control = {"label": "F-1", "position": [10**400, 0, 0], "positionStatus": "defined"}
    with pytest.raises(InputError, match=r"a\.mrk\.json cannot be read"):
        read_landmarks(markups(tmp_path, controlPoints=[control]))


def test_a_parser_s_own_words_are_not_told(tmp_path):
    (tmp_path / "a.mrk.json").write_text('{"markups": [')
    with pytest.raises(InputError, match=r"a\.mrk\.json cannot be read\. Give Slicer markups") as refused:
        read_landmarks(tmp_path / "a.mrk.json")
    assert "Expecting" not in str(refused.value)


def fcsv(tmp_path, status=None, system="LPS", name="a.fcsv"):
    sign = 1 if system in ("RAS", "0") else -1
    tail = [f",{status[n]},0" if status else "" for n in range(3)]
    rows = [
        f'{n + 1},{sign * x},{sign * y},{z},0,0,0,1,1,1,0,"F, {n}",,{tail[n]}' for n, (x, y, z) in enumerate(POINTS)
    ]
    path = tmp_path / name
    head = ["# Markups fiducial file version = 5.8", f"# CoordinateSystem = {system}"]
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    path.write_text(lines(*head, columns, *rows))
    return path


@pytest.mark.parametrize("system", ["LPS", "RAS", "0", "1"])
def test_fcsv_states_its_frame(system, tmp_path):
    found = read_landmarks(fcsv(tmp_path, system=system))
    np.testing.assert_array_equal(found.points, POINTS)
    assert found.labels == ("F, 0", "F, 1", "F, 2")


@pytest.mark.parametrize(("status", "placed"), [("202", [1, 0, 1]), ("213", [1, 0, 0]), ("222", [1, 1, 1])])
def test_fcsv_states_what_is_placed(status, placed, tmp_path):
    assert read_landmarks(fcsv(tmp_path, status)).placed.tolist() == [bool(n) for n in placed]


def test_old_lists_of_fiducials(tmp_path):
    path = tmp_path / "old.fcsv"
    path.write_text(
        lines("# Fiducial List file", "# columns = label,x,y,z,sel,vis", *with_numbers("F{n},{x},{y},{z},1,1"))
    )
    found = read_landmarks(path)
    np.testing.assert_array_equal(found.points, POINTS)
    assert found.labels == ("F0", "F1", "F2")


def named(labels, unset=(), name="fixed landmarks"):
    points = np.arange(3.0 * len(labels)).reshape(-1, 3)
    points[list(unset)] = np.nan
    return Landmarks(points, tuple(labels), name)


def pairs(fixed, moving):
    """Numbers of the points that were paired, and what was told."""
    one, other, told = paired(fixed, moving)
    return [(int(a[0] / 3), int(b[0] / 3)) for a, b in zip(one, other, strict=True)], told


def test_points_are_paired_by_label_whatever_their_order():
    assert pairs(named("abcd"), named("dcba", name="moving landmarks")) == ([(0, 3), (1, 2), (2, 1), (3, 0)], [])


def test_points_that_are_not_placed_are_left_out_and_told():
    found, told = pairs(named("abcd", unset=[1]), named("dcba", unset=[0], name="moving landmarks"))
    assert found == [(0, 3), (2, 1)]
    assert "'b' of the fixed landmarks and 'd' of the moving landmarks" in told[0]
    assert "2 pairs" in told[0]


def test_labels_of_one_list_alone_are_left_out_and_told():
    found, told = pairs(named("abc"), named("xcb", name="moving landmarks"))
    assert found == [(1, 2), (2, 1)]
    assert "'a' of the fixed landmarks and 'x' of the moving landmarks" in told[0]


@pytest.mark.parametrize(("one", "other"), [("aab", "aab"), (["", "", ""], "abc"), ("abc", "xyz")])
def test_without_shared_labels_the_order_counts_and_gaps_are_places(one, other):
    found, told = pairs(named(one, unset=[0]), named(other, name="moving landmarks"))
    assert found == [(1, 1), (2, 2)]
    assert "of the fixed landmarks" in told[0]


def test_lists_that_cannot_be_paired_are_refused():
    with pytest.raises(InputError, match="3 fixed landmarks and 4 moving landmarks"):
        paired(named(["", "", ""]), named(["", "", "", ""], name="moving landmarks"))
    with pytest.raises(InputError, match="is placed in both"):
        paired(named("ab", unset=[0]), named("ab", unset=[1], name="moving landmarks"))


def test_files_of_any_kind_are_paired_by_label(tmp_path):
    one = read_landmarks(markups(tmp_path, order=[2, 0, 1], unset=(0,)))
    other = read_landmarks(table(tmp_path, lines("label,x,y,z", *with_numbers("F-{n},{x},{y},{z}"))))
    found = paired(one, other)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], [POINTS[2], POINTS[1]])
