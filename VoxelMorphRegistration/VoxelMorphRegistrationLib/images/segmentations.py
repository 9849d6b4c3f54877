"""Label maps from files, segmentations of 3D Slicer (.seg.nrrd) among them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from .files import grid_from_sitk, open_image, read_image
from .image import Image
from .labels import inside, whole_numbers
from .places import check_place

_SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer|ID)")


@dataclass(frozen=True, eq=False)
class LabelFile:
    """Labels as whole numbers on their own grid. names: {value: name} of a segmentation's segments, else empty."""

    image: Image
    names: dict[int, str]

    @property
    def is_segmentation(self) -> bool:
        return bool(self.names)


def read_labels(path: str | Path, name: str) -> LabelFile:
    """A label map in any format of read_image, or a segmentation of Slicer. Raises InputError.

    A segmentation keeps its label values; where several segments have one value in layers of their own, they are
    numbered 1, 2, ... in their order.
    """
    return _segmentation(Path(path), name) or LabelFile(whole_numbers(read_image(path, name)), {})


def read_mask(path: str | Path, name: str) -> LabelFile:
    """Where an image is not 0, or where any segment of a segmentation is: bool. Raises InputError."""
    labels = _segmentation(Path(path), name)
    if labels is None:
        labels = LabelFile(read_image(path, name), {})
    else:
        # Which of several segments has a voxel is no matter here.
        labels = replace(labels, image=replace(labels.image, told=()))
    return replace(labels, image=inside(labels.image))


def _segmentation(path: Path, name: str) -> LabelFile | None:
    """None for a file that is none."""
    check_place(path, name)
    if not (path.is_file() and path.name.lower().endswith((".nrrd", ".nhdr"))):
        return None
    image = open_image(path, name)
    segments = _segments(image)
    return _of_segments(image, segments, name) if segments else None


def matched_by_name(fixed: LabelFile, moving: LabelFile) -> LabelFile:
    """The moving labels with the values of the fixed segments of the same name, whatever the case.

    As in the scene: values of segmentations mean nothing. Unchanged unless both are segmentations. Raises InputError
    when a name is double or none is shared.
    """
    if not (fixed.is_segmentation and moving.is_segmentation):
        return moving
    ours, theirs = _by_name(fixed), _by_name(moving)
    if not ours.keys() & theirs.keys():
        raise InputError(
            f"The {fixed.image.name} and the {moving.image.name} share no name, so it is unknown which structures "
            "belong together. Give the same structures the same names."
        )
    free = max([*ours.values(), *theirs.values(), 0]) + 1
    array = np.zeros(moving.image.array.shape, np.int32)
    names = {}
    for key, old in theirs.items():
        new = ours.get(key, free)
        free += key not in ours
        array[moving.image.array == old] = new
        names[new] = moving.names[old]
    return replace(moving, image=moving.image.with_array(array), names=names)


def _by_name(labels: LabelFile) -> dict[str, int]:
    result: dict[str, int] = {}
    for value, name in labels.names.items():
        key = name.strip().casefold()
        if key in result:
            raise InputError(f"The {labels.image.name} has two segments named '{name}'. Rename one of them.")
        result[key] = value
    return result


def _segments(image) -> list[dict[str, str]]:
    """What the header says of each segment."""
    found: dict[int, dict[str, str]] = {}
    for key in image.GetMetaDataKeys():
        if match := _SEGMENT.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = image.GetMetaData(key)
    return [found[number] for number in sorted(found) if "LabelValue" in found[number] or "ID" in found[number]]


def _of_segments(image, segments: list[dict[str, str]], name: str) -> LabelFile:
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(image)
    layers = array[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else array
    if layers.ndim != 4:
        raise InputError(f"The {name} is no segmentation of a volume. Export it from Slicer as a label map.")
    places = [(int(one.get("Layer", 0)), int(one.get("LabelValue", 1))) for one in segments]
    if any(not 0 <= layer < layers.shape[-1] for layer, _ in places):
        raise InputError(f"The {name} is damaged: its segments are in layers that it does not have.")
    values = [value for _, value in places]
    if len(set(values)) < len(values):
        values = list(range(1, len(values) + 1))
    result = np.zeros(layers.shape[:3], np.int32)
    shared = np.zeros(layers.shape[:3], bool)
    for (layer, stored), value in zip(places, values, strict=True):
        own = layers[..., layer] == stored
        shared |= own & (result != 0)
        result[own] = value
    told: tuple[str, ...] = ()
    if shared.any():
        told = (
            f"Segments of the {name} overlap in {np.count_nonzero(shared)} voxels; the later segment has them, since a "
            "voxel holds one label here.",
        )
    titles = [one.get("Name") or one.get("ID") or f"Segment {n}" for n, one in enumerate(segments, start=1)]
    return LabelFile(Image(result, grid_from_sitk(image), name, told), dict(zip(values, titles, strict=True)))
