"""The expected error where all that is known is what people drew: `python Testing/Calibration/outside.py DATA CASES`.

DATA is a folder with brain/ (T1 with 30 structures, aligned), prostate_mr_us/ (landmarks and gland) and so on; it is
no part of the repository. CASES: brain (people), hole (a cavity in one of them), half (one of them cut off), prostate,
later (one person at two dates).

Of structures, the distance of the surfaces after warping is an error that is real, and a lower one: a surface that
slides along itself goes unseen. Where people drew 138 structures, the registration goes on from what was found, guided
by them (as `voxelmorph teach` does): how far that leads away is an error, too, and a lower one, but one of every place.
Of landmarks, it is the whole error, with that of the drawing. Of one person at two dates, others found an affine
transform that is good to about 1 mm.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_labels
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.images.grid import Grid, working_grid
from VoxelMorphRegistrationLib.images.image import Image, resample
from VoxelMorphRegistrationLib.refinement.levels import Options
from VoxelMorphRegistrationLib.refinement.pair import Channel
from VoxelMorphRegistrationLib.refinement.pair import Pair as Compared
from VoxelMorphRegistrationLib.refinement.refine import refine
from VoxelMorphRegistrationLib.registration import doubt
from VoxelMorphRegistrationLib.registration.evaluation import label_values
from VoxelMorphRegistrationLib.registration.inputs import accepted
from VoxelMorphRegistrationLib.registration.intensity import measured_region
from VoxelMorphRegistrationLib.registration.refining import pair_of
from VoxelMorphRegistrationLib.registration.register import register
from VoxelMorphRegistrationLib.registration.result import Registration
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.results.overview import draw_overview
from VoxelMorphRegistrationLib.trust.error_map import EFFORTS, bound_at, error_map

# Names of the two images of a person, and more points than this are told of by their percentiles.
LATER, MANY = (("T1W", "T1W"), ("FLAIR", "FLAIR"), ("T1W", "T2W")), 20
PEOPLE = (("1012", "1013"), ("1014", "1015"), ("1017", "1018"))


@dataclass(frozen=True, eq=False)
class Pair:
    """labels: of both images, or None. parcels: finer ones, likewise. changed: (K, J, I) of the fixed grid, where
    something has no counterpart.
    """

    fixed: Image
    moving: Image
    labels: tuple[Image, Image] | None = None
    parcels: tuple[Image, Image] | None = None
    changed: np.ndarray | None = None


def coarser(image: Image, spacing: float | None, labels: bool = False) -> Image:
    if spacing is None:
        return image
    grid = working_grid(image.grid, np.maximum(image.grid.spacing, spacing))
    if not labels:
        return resample(image, grid, smooth=True)
    kji = np.rint(image.grid.to_ijk(grid.positions())).astype(int)[..., ::-1]
    kji = np.clip(kji, 0, np.array(image.grid.shape) - 1)
    return Image(image.array[tuple(np.moveaxis(kji, -1, 0))], grid, image.name)


def people(data: Path, names: tuple[str, str], spacing: float | None) -> Pair:
    images = [coarser(read_image(data / "brain" / f"{n}_t1.nii.gz"), spacing) for n in names]
    labels, parcels = (
        tuple(coarser(read_image(data / "brain" / f"{n}_labels{count}.nii.gz"), spacing, True) for n in names)
        for count in (30, 138)
    )
    return Pair(images[0], images[1], labels, parcels)


def with_hole(pair: Pair) -> Pair:
    """A cavity of 4 cm in the moving brain, filled as fluid is, in the right frontal lobe of the fixed one."""
    size = np.array(pair.fixed.grid.shape)
    place = pair.fixed.grid.positions()
    anatomy = pair.fixed.array > 0.1 * np.percentile(pair.fixed.array, 99)
    low, high = place[anatomy].min(0), place[anatomy].max(0)
    centre = low + np.array([0.75, 0.72, 0.6]) * (high - low)
    moving = pair.moving
    away = np.linalg.norm(moving.grid.positions() - centre, axis=-1)
    hole = away < 20.0
    noise = np.random.default_rng(0).normal(scale=3, size=moving.array.shape)
    dark = 0.15 * np.percentile(moving.array, 99)
    array = np.where(hole & (moving.array > 0), dark + noise, moving.array).astype(np.float32)
    changed = (np.linalg.norm(place - centre, axis=-1) < 20.0) & anatomy
    assert size.min() > 1
    return replace(pair, moving=moving.with_array(array), parcels=None, changed=changed)


def with_half(pair: Pair) -> Pair:
    """The moving image without its upper half."""
    moving = pair.moving
    up = int(np.abs(moving.grid.directions[2]).argmax())
    axis = 2 - up
    n = moving.array.shape[axis]
    middle = n // 2
    rises = moving.grid.directions[2, up] > 0
    keep = slice(0, middle) if rises else slice(middle, n)
    index = [slice(None)] * 3
    index[axis] = keep
    start, count = np.zeros(3, int), moving.grid.size.copy()
    start[up], count[up] = keep.start, keep.stop - keep.start
    cut = Image(np.ascontiguousarray(moving.array[tuple(index)]), moving.grid.cropped(start, count), moving.name)
    inside = cut.grid.contains(pair.fixed.grid.positions())
    anatomy = pair.fixed.array > 0.1 * np.percentile(pair.fixed.array, 99)
    return Pair(pair.fixed, cut, changed=~inside & anatomy)


def surface_errors(warped: Image, bound: np.ndarray, labels: Image) -> dict[int, tuple[float, float, float, float]]:
    """For each structure: mean and 90th percentile of the surfaces' distance in mm, mean bound there, and the percent
    of the fixed surface that is nearer than the bound."""
    found = {}
    for label in label_values(labels):
        own, other = labels.array == label, warped.array == label
        if own.sum() < 50 or not other.any():
            continue
        distance = _distance(_surface(other), labels.grid)
        surface = _surface(own) & (bound > 0)
        values, limits = distance[surface], bound[surface]
        if values.size:
            found[label] = (
                float(values.mean()),
                float(np.percentile(values, 90)),
                float(limits.mean()),
                100 * float(np.mean(values <= limits)),
            )
    return found


def with_labels(result: Registration, pair: Compared, parcels: tuple[Image, Image]) -> DisplacementField:
    """Where the registration leads when it goes on with images in which each structure has an intensity by chance."""
    random, values = (
        np.random.default_rng(0),
        np.unique([value for image in parcels for value in np.unique(image.array)]),
    )
    channels = []
    for _ in range(3):
        means = random.permutation(np.linspace(0.15, 1.0, len(values))).astype(np.float32)
        means[values == 0] = 0.0
        drawn = [image.with_array(means[np.searchsorted(values, image.array)]) for image in parcels]
        channels.append(Channel(drawn[0], drawn[1], ((0.0, 1.0), (0.0, 1.0))))
    options = Options("labels", "lncc", smoothness=0.5)
    return refine(replace(pair, further=tuple(channels)), result.field, options).field


def _surface(mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    for axis in range(3):
        for shift in (1, -1):
            inner &= np.roll(mask, shift, axis)
    return mask & ~inner


def _distance(mask: np.ndarray, grid: Grid) -> np.ndarray:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(grid.spacing.tolist())
    return np.maximum(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, False, False, True)), 0.0)


def run(name: str, case: Pair, efforts: list[str], out: Path, points=None) -> None:
    """One registration, and the map of each effort: a line of JSON and a picture of each."""
    settings = Settings(expected_error="off", device="cpu")
    # Labels of both would decide what is kept.
    extras = {} if case.labels is None else {"moving_labels": case.labels[1]}
    begun = time.process_time()
    result = register(case.fixed, case.moving, None, settings, **extras)
    seconds = time.process_time() - begun
    peak = _peak_mb()
    inputs = accepted(case.fixed, case.moving, settings, [])
    pair = pair_of(inputs, result.linear)
    assert result.report.refinement is not None
    guided = None if case.parcels is None else with_labels(result, pair, case.parcels)
    for effort in efforts:
        begun = time.process_time()
        region = measured_region(inputs.moving, None)
        found = error_map(pair, result.field, result.report.refinement["similarity"], region, effort)
        own = time.process_time() - begun
        told, worst = doubt.summary(found, inputs.region, None)
        line: dict = {
            "case": name,
            "effort": effort,
            "registration_cpu_s": round(seconds, 1),
            "map_cpu_s": round(own, 1),
            "peak_mb": [peak, _peak_mb()],
            **{key: round(told[key], 2) for key in ("median", "p90", "under_1mm", "under_2mm", "under_5mm")},
            **_of_structures(found.bound, result, case),
            **_of_guided(found.bound, result, case, guided),
            **_of_changed(found.bound, case, worst),
            **_of_points(found.bound, result, points),
        }
        drawn = draw_overview(replace(result, expected_error=found), case.fixed, case.moving)
        drawn.picture.save(out / f"{name}-{effort}.png")
        print(json.dumps(line), flush=True)


def _peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _of_structures(bound: Image, result: Registration, case: Pair) -> dict:
    """Of the structures, and of the parcels: of a folded surface the nearest place is near in any case, so that only
    its parts tell how far it lies off."""
    told: dict = {}
    for name, labels in (("structures", case.labels), ("parcels", case.parcels)):
        if labels is None:
            continue
        warped = warp_labels(labels[1], labels[0].grid, result.field, result.linear, mode="nearest")
        rows = surface_errors(warped, bound.array, labels[0])
        table = np.array(list(rows.values()))
        told |= {
            name: len(rows),
            f"{name}_surface_mm": [round(float(table[:, n].mean()), 2) for n in (0, 1)],
            f"{name}_bound_mm": round(float(table[:, 2].mean()), 2),
            f"{name}_nearer_than_bound": [round(float(v), 1) for v in (table[:, 3].mean(), table[:, 3].min())],
            f"{name}_rank": [round(_rank(table[:, n], table[:, 2]), 2) for n in (0, 1)],
        }
    return told


def _of_guided(bound: Image, result: Registration, case: Pair, guided: DisplacementField | None) -> dict:
    """Of how far the way with labels leads elsewhere, at every second voxel."""
    if guided is None or case.labels is None:
        return {}
    some = (slice(None, None, 2),) * 3
    known = bound.array[some] > 0
    places = bound.grid.positions()[some][known]
    error = np.linalg.norm(result.field.transform_points(places) - guided.transform_points(places), axis=1)
    limits, labels = bound.array[some][known], case.labels[0].array[some][known]
    own = [labels == label for label in np.unique(labels) if label and np.sum(labels == label) > 15]
    return {
        "guided_mm": [round(float(np.percentile(error, part)), 2) for part in (50, 90)],
        "guided_under": round(100 * float(np.mean(error <= limits)), 1),
        "guided_rank": round(_rank(error, limits), 2),
        "guided_structures_rank": round(
            _rank(np.array([error[one].mean() for one in own]), np.array([limits[one].mean() for one in own])), 2
        ),
    }


def _rank(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(*(np.argsort(np.argsort(values)) for values in (one, other)))[0, 1])


def _of_changed(bound: Image, case: Pair, worst: list[float]) -> dict:
    """Of what has no counterpart, and whether the least certain place is in it."""
    if case.changed is None:
        return {}
    known = bound.array > 0
    i, j, k = np.rint(case.fixed.grid.to_ijk(worst)).astype(int)
    return {
        "bound_changed": round(float(np.median(bound.array[case.changed & known])), 2),
        "bound_rest": round(float(np.median(bound.array[~case.changed & known])), 2),
        "worst_is_there": bool(case.changed[k, j, i]),
    }


def _of_points(bound: Image, result: Registration, points) -> dict:
    if points is None:
        return {}
    errors = np.linalg.norm(result.transform_points(points[0]) - points[1], axis=1)
    limits = bound_at(bound, points[0])
    known = np.isfinite(limits)
    errors, limits = errors[known], limits[known]
    told: dict = {"under": round(100 * float(np.mean(errors <= limits)), 1) if known.any() else None}
    if len(errors) > MANY:
        parts = (50, 90, 100)
        return told | {
            "errors_mm": [round(float(np.percentile(errors, part)), 2) for part in parts],
            "bounds_mm": [round(float(np.percentile(limits, part)), 2) for part in parts],
            "rank": round(_rank(errors, limits), 2),
        }
    return told | {
        "error_mm": [round(float(e), 2) for e in errors],
        "bound_at_mm": [round(float(e), 2) for e in limits],
    }


def later(data: Path, number: int) -> tuple[Pair, tuple[np.ndarray, np.ndarray]]:
    """One person at two dates, and where points 6 mm apart in the first image lie in the second by the affine
    transforms that come with the data."""
    folder = data / "longitudinal"
    names = LATER[number]
    images = [read_image(folder / f"p01_study{study}_{name}.nii.gz") for study, name in zip((1, 2), names, strict=True)]
    # Each is from points of the FLAIR, or of the common space, to points of the image that it is named after.
    ways = []
    for study, name in zip((1, 2), names, strict=True):
        way = _affine(folder / f"p01_study{study}_FLAIR_to_common_space.txt")
        if name != "FLAIR":
            way = _affine(folder / f"p01_study{study}_{name}_intrastudy_to_FLAIR.txt") @ way
        ways.append(way)
    matrix = ways[1] @ np.linalg.inv(ways[0])
    grid = working_grid(images[0].grid, 6.0)
    anatomy = resample(images[0], grid, smooth=True).array
    places = grid.positions()[anatomy > 0.1 * np.percentile(anatomy, 99)]
    return Pair(images[0], images[1]), (places, places @ matrix[:3, :3].T + matrix[:3, 3])


def _affine(path: Path) -> np.ndarray:
    """(4, 4) in RAS mm."""
    transform = sitk.ReadTransform(str(path))
    at = np.array([transform.TransformPoint(point) for point in np.vstack([np.zeros(3), np.eye(3)]).tolist()])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (at[1:] - at[0]).T, at[0]
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ matrix @ flip


def prostate(data: Path, number: int) -> tuple[Pair, tuple[np.ndarray, np.ndarray]]:
    """Ultrasound onto MR; the landmarks' centres in both."""
    folder = data / "prostate_mr_us"
    images = [_channel(folder / f"{kind}_images_case{number:06d}.nii.gz", None)[0] for kind in ("mr", "us")]
    marks = [
        _channel(folder / f"{kind}_labels_case{number:06d}.nii.gz", images[n].grid)[1]
        for n, kind in enumerate(("mr", "us"))
    ]
    both = [n for n in sorted(marks[0]) if n in marks[1] and n > 0]
    points = np.array([marks[0][n] for n in both]), np.array([marks[1][n] for n in both])
    return Pair(images[0], images[1]), points


def _channel(path: Path, grid: Grid | None) -> tuple[Image, dict[int, np.ndarray]]:
    import nibabel

    loaded = nibabel.load(path)
    array = np.asarray(loaded.dataobj)
    if array.ndim == 3:
        kji = np.ascontiguousarray(array.transpose(2, 1, 0))
        own = grid or Grid(kji.shape, loaded.affine)
        return Image(kji.astype(np.float32), own), {}
    centres = {}
    assert grid is not None
    for n in range(array.shape[-1]):
        inside = np.argwhere(array[..., n] > 0)
        if len(inside):
            centres[n] = grid.to_ras(inside.mean(0))
    return Image(np.zeros(grid.shape, np.float32), grid), centres


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("cases", nargs="+", help="brain:N, hole:N, half:N, later:N (N: 0 to 2), prostate:N (0 to 7)")
    parser.add_argument("--spacing", type=float, help="coarser voxels for brains, mm")
    parser.add_argument("--effort", nargs="+", default=list(EFFORTS), choices=EFFORTS)
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.cases:
        kind, number = name.split(":")
        points = None
        if kind in ("prostate", "later"):
            pair, points = {"prostate": prostate, "later": later}[kind](arguments.data, int(number))
        else:
            pair = people(arguments.data, PEOPLE[int(number)], arguments.spacing)
            if kind == "hole":
                pair = with_hole(pair)
            if kind == "half":
                pair = with_half(pair)
        run(name.replace(":", "-"), pair, arguments.effort, arguments.out, points)


if __name__ == "__main__":
    main()
