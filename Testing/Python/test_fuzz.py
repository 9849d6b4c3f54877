"""Files of strangers, damaged and senseless: each ends in a result or a sentence. Testing/Fuzz has more of them."""

from __future__ import annotations

import pytest
from fuzz import fuzz
from kinds import kinds

# Those that take milliseconds a file: exporting a network takes seconds. The script has more files of each.
QUICK = sorted(set(kinds()) - {"models (.pt2)"})


@pytest.mark.parametrize("name", QUICK)
def test_files_of_strangers_end_in_a_result_or_a_sentence(name, tmp_path):
    counts = fuzz(name, 12, 1, tmp_path)
    assert sum(counts.values()) >= 12
