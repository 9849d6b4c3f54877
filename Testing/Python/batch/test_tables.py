"""Tables of pairs: what rows mean, and that a damaged one costs itself alone."""

import json

import pytest

from VoxelMorphRegistrationLib.batch.pair import check_id, short_names
from VoxelMorphRegistrationLib.batch.table import all_pairs, listed, one_to_many, read_table, table_of
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.registration.settings import Settings


def table(tmp_path, text, name="pairs.csv", **others):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(tmp_path / name, **others)


def test_files_are_relative_to_the_table_and_columns_are_settings(tmp_path):
    text = "id,Fixed,moving,fixed landmarks,refine,passes,smoothness,inverse\na,f.nii,sub/m.nii,p.csv,fast,2,1.5,yes\n"
    (pair,) = table(tmp_path, text, settings=Settings(seed=7)).pairs
    assert pair.id == "a" and pair.inverse
    assert pair.files.moving == str(tmp_path / "sub/m.nii") and pair.files.fixed_points == str(tmp_path / "p.csv")
    assert (pair.settings.refinement, pair.settings.passes, pair.settings.smoothness, pair.settings.seed) == (
        *("fast", 2, 1.5, 7),
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", "fixed\tmoving\nf.nii\tm.nii\n"),
        ("t.csv", "\ufefffixed;moving\r\nf.nii;m.nii\r\n"),
        ("t.jsonl", '{"fixed": "f.nii", "moving": "m.nii"}\n\n'),
    ],
)
def test_kinds_of_tables(tmp_path, name, text):
    (pair,) = table(tmp_path, text, name).pairs
    assert pair.files.fixed == str(tmp_path / "f.nii") and pair.id == "m-to-f"


def test_json_lines_hold_chains_and_numbers(tmp_path):
    row = {"id": "x", "fixed": "f", "moving": "m", "initial_transform": ["w.nii:inverse", "a.mat"], "passes": 3}
    (pair,) = table(tmp_path, json.dumps(row), "t.jsonl").pairs
    assert pair.files.initial_transform == (str(tmp_path / "w.nii:inverse"), str(tmp_path / "a.mat"))
    assert pair.settings.passes == 3


def test_damaged_rows_cost_themselves_alone(tmp_path):
    lines = [
        b"id,fixed,moving,passes",
        b"a,f.nii,m.nii,",
        b'b,"f.nii,m.nii,',
        b"c,f.nii",
        b"d,f.nii,m.nii,two",
        b"e,f.nii,m.nii,99",
        b"f,f.nii,m.nii,1,more,cells",
        b"../g,f.nii,m.nii,",
        b"A,f.nii,n.nii,",
        b"h,f\0.nii,m.nii,",
        b"i,f.nii,m.nii,",
    ]
    found = table(tmp_path, b"\n".join(lines))
    assert [pair.id for pair in found.pairs] == ["a", "i"]
    assert list(found.bad) == [f"line {n}" for n in (3, 4, 5, 6, 7, 8, 10, 9)]
    for number, words in (
        (3, "cannot be read"),
        (4, "no moving image"),
        (5, "no number"),
        (6, "passes is 99"),
        (7, "6 cells for 4"),
        (8, "cannot name a folder"),
        (9, "that of line 2"),
        (10, "no text"),
    ):
        assert words in found.bad[f"line {number}"]


def test_json_lines_that_are_none(tmp_path):
    found = table(tmp_path, '{"fixed": "f", "moving": "m"}\n{"fixed": \n[1]\n' + "[" * 100_000, "t.jsonl")
    assert len(found.pairs) == 1 and set(found.bad) == {"line 2", "line 3", "line 4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixed,other\na,b\n", "no column 'moving'"),
        ("fixed,moving,smothness\n", "'smothness'. If it means 'smoothness'"),
        ("fixed,moving,moving\n", "names a column twice"),
        ("", "is empty"),
        (b"\xff\xfe\x00", "no UTF-8 text"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        table(tmp_path, text)


def test_other_columns_go_along(tmp_path):
    found = table(tmp_path, "fixed,moving,age\nf.nii,m.nii,71\n")
    assert found.pairs[0].notes == {"age": "71"} and "age" in found.told[0]


def test_pairs_without_ids_are_named_by_what_tells_them_apart():
    rows = one_to_many("fixed", "/study/atlas.nii.gz", ["/study/s1/T1.nii.gz", "/study/s2/T1.nii.gz"], {})
    found = table_of([(str(n), row) for n, row in enumerate(rows)])
    assert [pair.id for pair in found.pairs] == ["s1_T1-to-study_atlas", "s2_T1-to-study_atlas"]
    assert short_names(["a b.nii.gz", "ä.nrrd"]) == {"a b.nii.gz": "a_b", "ä.nrrd": "ä"}


def test_a_semicolon_in_the_name_of_a_file_parts_nothing_without_a_table():
    for rows in (one_to_many("fixed", "/a;1.nii", ["/b;2.nii"], {}), all_pairs(["/a;1.nii", "/b;2.nii"])):
        (pair,) = table_of([("1", row) for row in rows]).pairs
        assert (pair.files.fixed, pair.files.moving) == ("/a;1.nii", "/b;2.nii")


def test_long_names_stay_apart():
    atlas = "a" * 118
    rows = one_to_many("moving", f"/{atlas}.nii.gz", [f"/s{n}/{'ä' * 50}_{n}.nii.gz" for n in range(3)], {})
    found = table_of([(str(n), row) for n, row in enumerate(rows)])
    assert len({pair.id for pair in found.pairs}) == 3 and not found.bad
    for pair in found.pairs:
        check_id(pair.id)


def test_same_pair_twice_is_told():
    rows = [{"fixed": "f.nii", "moving": "m.nii"}] * 2
    found = table_of([(str(n), row) for n, row in enumerate(rows)])
    assert len(found.pairs) == 1 and "is that of pair 0" in found.bad["pair 1"]


def test_a_setting_is_said_once(tmp_path):
    row = {"fixed": "f", "moving": "m", "refine": "fast", "refinement": "default"}
    found = table(tmp_path, json.dumps(row), "t.jsonl")
    assert "says refinement a second time" in found.bad["line 1"]


def test_all_pairs_of_a_list_that_is_a_file(tmp_path):
    (tmp_path / "list.txt").write_text("a.nii\n\nb.nii\nsub/c.nii\n")
    names = [str(tmp_path / name) for name in ("a.nii", "b.nii", "sub/c.nii")]
    assert listed([str(tmp_path / "list.txt"), names[0]]) == names
    assert [tuple(row.values()) for row in all_pairs(names)] == [
        ([names[0]], [names[1]]),
        ([names[0]], [names[2]]),
        ([names[1]], [names[2]]),
    ]
    assert len(all_pairs(names, both_ways=True)) == 6


@pytest.mark.parametrize("name", [".", "a/b", "con", "NUL.x", "a:", "x" * 121, "a\n", " a", "a."])
def test_names_that_make_no_folder(name):
    with pytest.raises(InputError, match="cannot name a folder"):
        check_id(name)
