import pytest

from grids import KINDS
from transform_cases import CASES, setting

pytestmark = pytest.mark.usefixtures("readers_here")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.tool} {case.what}")
@pytest.mark.parametrize("kind", ["anisotropic", "oblique", "left-handed", "oblique, anisotropic, left-handed"])
def test_points_go_where_the_other_program_carries_them(kind, case, tmp_path):
    assert kind in KINDS
    assert case.measure(setting(kind), tmp_path) < 0.01
