"""Slices are refined from nothing and from what the shipped networks make of them, and the best result is kept."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from grids import make_grid
from refinement_cases import brightness, known, other_contrast
from small_models import save_centroid_model
from VoxelMorphRegistrationLib import Settings, register
from VoxelMorphRegistrationLib.errors import Cancelled
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.model import read_card
from VoxelMorphRegistrationLib.networks.shelf import find_model
from VoxelMorphRegistrationLib.refinement.levels import REAL_DETAIL
from VoxelMorphRegistrationLib.refinement.refine import Refined
from VoxelMorphRegistrationLib.registration import refining, starts
from VoxelMorphRegistrationLib.registration.guard import Comparison
from VoxelMorphRegistrationLib.registration.needs import needed_bytes
from VoxelMorphRegistrationLib.registration.progress import STOP_HERE, Run
from VoxelMorphRegistrationLib.registration.starts import best_of, starting_networks, with_start

FAR = 14.0


@cache
def far_apart(spacing=1.0, far=FAR):
    """The same structure in a slice, too far apart to be found from nothing; nobody may change the arrays."""
    grid = make_grid((84, 52, 1), (spacing, spacing, spacing), (30.0, -20.0, 10.0))

    def at(shift, name):
        local = (grid.positions() - grid.center_ras) @ grid.directions / spacing - [shift, 0, 0]
        return Image(brightness(local).astype(np.float32), grid, name)

    return at(-far / 2, "fixed"), at(far / 2, "moving")


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """Called with parts of the way between the images: networks that make these are the shipped ones; their names."""

    def ship(*parts):
        files = [str(save_centroid_model(tmp_path / f"{n}.pt", 2, part, passes=2)) for n, part in enumerate(parts)]
        monkeypatch.setattr(starts, "model_names", lambda: files)
        return files

    return ship


def done(fixed, moving, progress=None, **changes):
    return register(
        fixed,
        moving,
        settings=Settings(**{"alignment": "none", "device": "cpu", "similarity": "lncc", **changes}),
        progress=progress,
    )


def moved(result):
    """Mean displacement in mm along the way between the images, within the body."""
    fixed, _ = far_apart()
    inside = fixed.array > 200
    return (result.field.on_grid(fixed.grid).displacement_ras[inside] @ fixed.grid.directions[:, 0]).mean()


def test_the_start_under_which_the_images_end_most_alike_is_kept_and_told(shipped):
    wrong, right = shipped(-1.0, 1.0)
    result = done(*far_apart())
    found = result.report.refinement
    assert found["start"] == right and [one["name"] for one in found["starts"]] == [wrong, right]
    assert moved(result) == pytest.approx(FAR, abs=1.0)
    reached = {one["name"]: one["local"] for one in found["starts"]}
    assert reached[right] > 0.8 and reached[right] > max(reached[wrong], found["starts"][0]["local_from_nothing"]) + 0.2
    # It is compared with the alignment, and told so.
    assert found["improved"] and found["value"]["after"] > found["value"]["before"] + 0.2
    (check,) = result.report.checks["refinement"]["similarity"]
    assert check["after"] > check["before"] + 0.2 and result.report.model["name"] == "none"


def test_starts_that_end_worse_change_nothing(shipped):
    shipped(-1.0, -0.5)
    result, alone = done(*far_apart()), done(*far_apart(), model="none")
    assert result.report.refinement["start"] == "nothing" and len(result.report.refinement["starts"]) == 2
    assert alone.report.refinement["start"] is None and alone.report.refinement["starts"] == []
    np.testing.assert_array_equal(result.field.displacement_ras, alone.field.displacement_ras)
    assert result.report.refinement["steps"] == alone.report.refinement["steps"]


@pytest.mark.parametrize(
    ("least", "later", "detailed"),
    # Of the refinement from nothing and of the later ones: as the first one has it, or again where it is too little.
    [(-1.0, 2.0, [True, True]), (2.0, -1.0, [False, True, False]), (2.0, 2.0, [False, False])],
)
def test_starts_are_refined_with_as_much_smoothing_as_nothing_is(shipped, monkeypatch, least, later, detailed):
    """With less smoothing images are always more alike."""
    shipped(1.0)
    made, refine = [], refining._refined

    def refined(*arguments, **told):
        monkeypatch.setitem(REAL_DETAIL, "lncc", later if made else least)
        result = refine(*arguments, **told)
        made.append(result[0].detailed)
        monkeypatch.setitem(REAL_DETAIL, "lncc", 0.45)
        return result

    monkeypatch.setattr(refining, "_refined", refined)
    progress, fractions = heard(2.0, None)
    result = done(*far_apart(far=2.0), progress)
    assert made == detailed and fractions == sorted(fractions)
    assert result.report.refinement["detailed"] is detailed[0]


@pytest.mark.parametrize(
    ("first", "own", "after", "asked"),
    [
        (True, True, 0.6, [True]),
        (False, False, 0.6, [None]),
        # Less smoothing has to explain .45 of what the result from nothing left, .5.
        (False, True, 0.73, [None]),
        (False, True, 0.72, [None, False]),
    ],
)
def test_less_smoothing_counts_where_it_explains_enough(monkeypatch, first, own, after, asked):
    fixed, _ = far_apart()
    identity = DisplacementField.identity(fixed.grid)
    monkeypatch.setattr(starts.Starts, "field", lambda *_: identity)
    told = []

    class Seen:
        def compare(self, *_):
            return (Comparison("lncc", 0.5, after, 1.0),)

        def pieces(self, _):
            return 1.0, 1.0

    def refined(field, in_detail):
        told.append(in_detail)
        return Refined(field, 0.1, 0.3, (5,), own if in_detail is None else in_detail, True)

    alone = Refined(identity, 0.05, 0.2, (4,), first, True)
    some = starts.Starts(None, np.eye(4), Settings(), {"m": None})
    ((name, found), *_), _ = best_of(alone, some, refined, Seen(), Run(None))
    assert told == asked and name == "m"
    assert (found.similarity_before, found.similarity_after, found.steps) == (0.05, 0.3, (5,))


def test_what_no_tissue_does_is_not_kept(monkeypatch):
    fixed, _ = far_apart()
    identity = DisplacementField.identity(fixed.grid)
    monkeypatch.setattr(starts.Starts, "field", lambda *_: identity)

    class Seen:
        def compare(self, *_):
            return (Comparison("lncc", 0.5, 0.9, 1.0),)

        def pieces(self, _):
            return 0.01, 20.0

    alone = Refined(identity, 0.05, 0.2, (4,), False, True)
    folded = Refined(identity, 0.1, 0.3, (5,), False, True)
    some = starts.Starts(None, np.eye(4), Settings(), {"m": None})
    ranked, tried = best_of(alone, some, lambda *_: folded, Seen(), Run(None))
    assert [(name, found.steps) for name, found in ranked] == [("nothing", (4,))] and tried


@pytest.mark.parametrize(
    ("belongs", "kept", "undone"), [(FAR, 0, False), (3.0, 1, False), (1.0, 2, False), (0.0, 2, True)]
)
def test_where_labels_measure_the_most_alike_result_that_parts_none_is_kept(
    shipped, monkeypatch, belongs, kept, undone
):
    """Results of two networks and of nothing, by how alike the images are, and labels as they lie in `belongs` mm."""
    found = iter([1.0, FAR, 3.0])
    names = [*shipped(1.0, 0.9), "nothing"]
    fixed, moving = far_apart()

    def refined(*_, **__):
        shift = np.broadcast_to(next(found) * fixed.grid.directions[:, 0], (*fixed.grid.shape, 3))
        return Refined(DisplacementField(shift, fixed.grid), 0.1, 0.3, (4,), True, True), "cpu"

    monkeypatch.setattr(refining, "_refined", refined)
    bands = [np.zeros(fixed.grid.shape, np.uint8) for _ in range(2)]
    for band, shift in zip(bands, (0, int(belongs)), strict=True):
        band[..., 30 + shift : 55 + shift] = 1
    labels = {
        f"{side}_labels": image.with_array(band)
        for side, image, band in zip(("fixed", "moving"), (fixed, moving), bands, strict=True)
    }
    settings = Settings(alignment="none", device="cpu", similarity="lncc")
    report = register(fixed, moving, settings=settings, **labels).report
    assert report.checks["refinement"]["kept"] is not undone
    if undone:
        assert report.largest_displacement_mm == 0 and report.dice["after"]["mean"] == 1.0
    else:
        assert report.refinement["start"] == names[kept]
        assert report.largest_displacement_mm == pytest.approx([FAR, 3.0, 1.0][kept])
        assert report.dice["after"]["mean"] > report.dice["before"]["mean"]


@pytest.mark.parametrize(
    ("changes", "dimension", "names"),
    [
        ({}, 2, ["brain-2d", "general-2d"]),
        ({"refinement": "default"}, 2, ["brain-2d", "general-2d"]),
        ({"refinement": "default", "quality": "preview"}, 2, ["brain-2d", "general-2d"]),
        ({}, 3, []),
        ({"model": "none"}, 2, []),
        ({"model": "brain-2d"}, 2, []),
        ({"quality": "preview"}, 2, []),
        ({"refinement": "fast"}, 2, []),
        ({"refinement": "accurate"}, 2, []),
        ({"refinement": "off"}, 2, []),
    ],
)
def test_networks_are_starts_of_the_first_click_in_slices_only(changes, dimension, names):
    assert list(starting_networks(Settings(**changes), make_grid((40, 50, 1 if dimension == 2 else 30)))) == names


@pytest.mark.parametrize(("pixel", "names"), [(2.0, ["brain-2d", "general-2d"]), (2.1, ["general-2d"])])
def test_networks_whose_pixels_are_all_smaller_than_those_of_the_image_are_no_starts(pixel, names):
    assert list(starting_networks(Settings(), make_grid((40, 50, 1), (pixel, 3.0, 1.0)))) == names


@pytest.mark.parametrize(
    ("scales", "passes", "asked", "made"),
    [
        ((2.0, 1.0, 0.7, 0.5), 4, None, 2),
        ((2.0, 1.0, 0.7, 0.5), 1, None, 1),
        ((1.0,), 3, None, 3),
        ((0.5,), 3, None, 1),
        ((2.0, 1.0, 0.7), 3, 3, 3),
    ],
)
def test_networks_make_their_coarse_passes_only(scales, passes, asked, made):
    card = ModelCard("m", dimension=2, passes=passes, pass_scales=scales)
    settings = with_start(Settings(passes=asked), "m", card)
    assert (settings.model, settings.passes) == ("m", made)


def test_volumes_are_refined_from_nothing_alone(monkeypatch):
    monkeypatch.setattr(starts.Starts, "field", None)
    assert done(*known()).report.refinement["start"] is None


@pytest.mark.parametrize("case", ["labels", "landmarks", "channels", "start", "contrast", "model"])
def test_what_decides_otherwise_leaves_the_starts_out(shipped, monkeypatch, case):
    (name,) = shipped(1.0)
    monkeypatch.setattr(starts.Starts, "field", None)
    fixed, moving = far_apart()
    given, changes = {}, {"alignment": "none", "device": "cpu", "similarity": "lncc"}
    images = fixed, moving
    if case == "labels":
        labels = [image.with_array((image.array > 200).astype(np.uint8)) for image in images]
        given, changes["label_weight"] = dict(zip(("fixed_labels", "moving_labels"), labels, strict=True)), 1.0
    elif case == "landmarks":
        points = [image.grid.to_ras(np.argwhere(image.array > 400)[::50, ::-1]) for image in images]
        count = min(map(len, points))
        given, changes["landmark_weight"] = (
            {"fixed_points": points[0][:count], "moving_points": points[1][:count]},
            1.0,
        )
    elif case == "channels":
        images = (fixed, fixed), (moving, moving)
    elif case == "start":
        given["initial_transform"] = done(fixed, moving, refinement="off", model=name).field
    elif case == "contrast":
        images = fixed, other_contrast(moving)
        changes["similarity"] = "mind"
    else:
        changes["model"] = name
    assert register(*images, settings=Settings(**changes), **given).report.refinement["start"] is None


def test_a_network_whose_pixels_are_too_large_for_the_anatomy_is_left_out(shipped):
    shipped(1.0)
    found = done(*far_apart(0.01)).report
    assert found.refinement["start"] == "nothing" and found.refinement["starts"] == []


def heard(at, answer):
    """A progress callback that gives an answer from a fraction of the refinement on, and the list of all it heard."""
    fractions = []

    def progress(stage, fraction):
        if stage == "refining":
            fractions.append(fraction)
            return answer if fraction >= at else None
        return None

    return progress, fractions


def test_progress_rises_over_all_starts(shipped):
    shipped(-1.0, 1.0)
    progress, fractions = heard(2.0, None)
    done(*far_apart(), progress)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert all(any(n / 5 <= f < (n + 1) / 5 for f in fractions) for n in range(5))


@pytest.mark.parametrize(
    ("at", "kept", "refined"), [(0.05, 0, 1), (0.25, 0, 1), (0.45, 0, 2), (0.65, 1, 2), (0.85, 1, 3)]
)
def test_stop_keeps_the_best_of_what_is_finished_and_begins_nothing_more(shipped, monkeypatch, at, kept, refined):
    names = ["nothing", *shipped(1.0, -1.0)]
    made, refine = [], refining._refined
    monkeypatch.setattr(refining, "_refined", lambda *a, **k: made.append(a) or refine(*a, **k))
    progress, _ = heard(at, STOP_HERE)
    result = done(*far_apart(), progress)
    found = result.report.refinement
    assert found["stopped"] and result.report.stopped_at == "refining" and len(made) == refined
    assert found["start"] == names[kept]
    if kept:
        assert moved(result) == pytest.approx(FAR, abs=1.0)


def test_cancel_is_heard_between_the_starts(shipped):
    shipped(1.0)
    progress, fractions = heard(0.4, False)
    with pytest.raises(Cancelled):
        done(*far_apart(), progress)
    assert sum(f >= 0.4 for f in fractions) == 1


def needs_of(grid, changes=None, **extras):
    image = Image(np.ones(grid.shape, np.float32), grid, "image")
    settings = Settings(**{"device": "cpu", **(changes or {})})
    return needed_bytes(image, image, settings, "cpu", **extras)["cpu"]


def test_the_memory_told_beforehand_counts_what_the_starts_hold(monkeypatch):
    grid = make_grid((1000, 1000, 1), (0.2, 0.2, 1.0))
    alone, several = needs_of(grid, {"model": "none"}), needs_of(grid)
    # What registrations of so many pixels took more than from nothing alone.
    assert 61e6 < several - alone < 70e6
    points = np.zeros((3, 3))
    guided = {"landmark_weight": 1.0}, {"model": "none", "landmark_weight": 1.0}
    for further in ({"further": 1}, {"fixed_points": points, "moving_points": points}):
        with_them, without = (needs_of(grid, changes, **further) for changes in guided)
        assert with_them == without
    checked = []
    monkeypatch.setattr(refining, "check_memory", lambda needed, _: checked.append(needed))
    for name in ("auto", "none"):
        done(*far_apart(), model=name, refinement="default")
    assert checked[0] - checked[1] > 100_000


def test_the_memory_told_beforehand_counts_the_networks_of_the_starts():
    """Pixels twice as large as those of the network, so that it sees four times as many of them."""
    grid = make_grid((1000, 1000, 1), (2.0, 2.0, 1.0))
    held = needs_of(make_grid((1000, 1000, 1), (0.2, 0.2, 1.0)))
    card = read_card(find_model("brain-2d"))
    assert needs_of(grid) > held + card.memory_bytes(4_000_000) / 2
