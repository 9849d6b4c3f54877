"""The table and the page of a batch: outliers, order, and names of strangers."""

import re

import numpy as np
import pytest

from batch_cases import pairs_of
from VoxelMorphRegistrationLib.batch.counting import Counting
from VoxelMorphRegistrationLib.batch.job import ALREADY, Outcome
from VoxelMorphRegistrationLib.batch.pair import Pair
from VoxelMorphRegistrationLib.batch.places import DONE, FAILED, Places, write_json
from VoxelMorphRegistrationLib.batch.summary import read_summary, robust_z, summarise
from VoxelMorphRegistrationLib.batch.table import Table
from VoxelMorphRegistrationLib.registration.files import PairFiles
from VoxelMorphRegistrationLib.registration.settings import Settings


def report(ncc=0.9, folds=0.0):
    similar = {"before": {"ncc": 0.5, "mi": 0.3}, "aligned": {"ncc": 0.6, "mi": 0.4}, "after": {"ncc": ncc, "mi": 0.9}}
    inside = {"count": 0, "percent": folds, "any_corner_count": 0, "any_corner_percent": folds, "minimum": 0.4}
    return {
        "similarity": similar,
        "folding": {"inside": {**inside, "maximum": 2.0, "sd_log": 0.2, "voxels": 9}},
        "largest_displacement_mm": 5.0,
        "covered_percent": 99.0,
        "seconds": {"total": 1.0},
        "warnings": [],
    }


@pytest.fixture
def study(tmp_path):
    """Twelve pairs, of which 005 is unlike the others; 010 failed, 011 was not yet done."""
    places = Places(tmp_path)
    places.make()
    names = [f"/study/{name}.nii" for name in ("fix", *(f"{n:03}" for n in range(12)))]
    pairs = pairs_of(names, Settings(seed=3))
    for number, pair in enumerate(pairs[:10]):
        places.folder(pair.id).mkdir()
        ncc = 0.4 if number == 5 else 0.9 + number / 1000
        write_json(places.folder(pair.id) / "report.json", report(ncc))
        write_json(places.folder(pair.id) / "job.json", {"key": "k"})
    write_json(places.failure("010"), {"key": "k", "error": "no <b>file</b>"})
    return places, pairs


def test_the_most_doubtful_come_first(study):
    places, pairs = study
    lines = summarise(places, Table(pairs, {"line 9": "=bad row"}))
    assert [line.id for line in lines[:4]] == ["010", "line 9", "011", "005"]
    assert lines[3].doubt > 10 and "ncc_after 0.4" in lines[3].reasons[0]
    assert all(line.doubt < 3.5 for line in lines[4:])


def test_all_reports_are_in_one_table(study):
    places, pairs = study
    summarise(places, Table(pairs, {"line 9": "=bad row"}))
    rows = {row["id"]: row for row in read_summary(places.root / "summary.csv")}
    assert float(rows["005"]["ncc_after"]) == 0.4 and float(rows["005"]["z_ncc_after"]) < -10
    assert rows["001"]["state"] == "done" and rows["001"]["verdict"] == "good"
    assert rows["001"]["settings"] == '{"seed": 3}'
    assert rows["011"]["state"] == "open" and rows["010"]["reason"] == "no <b>file</b>"
    assert rows["line 9"]["reason"] == "'=bad row" and "dice_after" not in rows["001"]


def test_expected_errors_are_in_the_table_and_put_the_least_certain_first(study):
    places, pairs = study
    for number, pair in enumerate(pairs[:10]):
        expected = {"median": 1.0 + number / 100, "p90": 14.0 if number == 7 else 2.0 + number / 100, "effort": "quick"}
        limits = {"under_1mm": 40.0, "under_2mm": 75.0, "under_5mm": 99.0}
        write_json(places.folder(pair.id) / "report.json", {**report(), "expected_error": {**expected, **limits}})
    lines = summarise(places, Table(pairs))
    assert [line.id for line in lines[:3]] == ["010", "011", "007"]
    assert "expected_error_p90_mm 14" in lines[2].reasons[0]
    row = {row["id"]: row for row in read_summary(places.root / "summary.csv")}["003"]
    assert float(row["expected_error_mm"]) == 1.03 and float(row["expected_error_p90_mm"]) == 2.03
    assert [float(row[f"expected_under_{limit}mm_percent"]) for limit in (1, 2, 5)] == [40.0, 75.0, 99.0]
    assert "expected error (mm, 90 %) 14" in (places.root / "index.html").read_text()


def test_texts_of_strangers_stay_texts(tmp_path):
    places = Places(tmp_path)
    places.make()
    name = "<script>alert(1)</script> & 'x' #%"
    pair = Pair("a#b%'&c", PairFiles("/f.nii", f"/{name}.nii"), Settings(), notes={"=cmd": "@sum", "change": "-3.5"})
    places.folder(pair.id).mkdir()
    write_json(places.folder(pair.id) / "report.json", report())
    write_json(places.folder(pair.id) / "job.json", {"key": "k", "computer": "=x"})
    summarise(places, Table([pair], {"<img onerror=x>": "<i>why</i>"}))
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page and "<img onerror" not in page and "<i>" not in page
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {
        "summary.csv",
        "pairs/a%23b%25%27%26c/",
        "pairs/a%23b%25%27%26c/thumbnail.jpg",
    }
    row = {key: value for row in read_summary(tmp_path / "summary.csv")[1:] for key, value in row.items()}
    assert row["'=cmd"] == "'@sum" and row["computer"] == "'=x" and row["change"] == "-3.5"


def test_robust_scores():
    values = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 9.0, 8.0])
    z = robust_z(values)
    away = np.abs(values - np.median(values))
    np.testing.assert_allclose(z, (values - np.median(values)) / (1.4826 * np.median(away)))
    assert np.all(robust_z(np.array([1.0, 5.0])) == 0) and np.all(robust_z(np.ones(9)) == 0)
    # Most are equal: the one that is not stands out all the same.
    assert robust_z(np.array([0.0] * 20 + [1.0]))[-1] > 10


class Screen:
    def __init__(self, terminal=False):
        self.text, self.terminal = "", terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_rate_and_time_left_are_told():
    now = [0.0]
    screen = Screen()
    counting = Counting(100, screen, lambda: now[0])
    counting(Outcome("a", ALREADY))
    for number in range(9):
        now[0] += 36.0
        counting(Outcome(f"b{number}", DONE, seconds=30.0))
    now[0] += 36.0
    counting(Outcome("c", FAILED, "why", seconds=1.0))
    assert counting.text() == "10 of 100 pairs, 1 failed, 100 an hour, about 53 minutes left"
    lines = screen.text.splitlines()
    assert "c: why" in lines and lines[0].startswith("2 of 100 pairs, 100 an hour")


def test_a_terminal_gets_a_bar_that_goes_at_the_end():
    now = [0.0]
    screen = Screen(terminal=True)
    counting = Counting(2, screen, lambda: now[0])
    now[0] = 5.0
    counting(Outcome("a", DONE, seconds=5.0))
    assert "[##########..........] 1 of 2 pairs" in screen.text
    counting.end()
    assert screen.text.endswith("\r\033[K")


def test_nobody_who_looks_does_not_end_the_work():
    class Closed(Screen):
        def write(self, text):
            raise BrokenPipeError

    now = [0.0]
    counting = Counting(2, Closed(), lambda: now[0])
    counting(Outcome("a", FAILED, "why"))
    counting(Outcome("b", DONE))
    assert counting.made == 1
