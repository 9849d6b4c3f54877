"""A file of any kind carried through a chain, in the direction that its kind asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FieldError, InputError
from ..fields.inverse import LARGEST_PART_WITHOUT_INVERSE
from ..images.grid import Grid
from ..images.labels import looks_like_labels
from . import points, resampling, segmentations, surfaces
from .chain import Chain
from .frames import Frames, read_frames, write_frames

IMAGE, SEGMENTATION, POINTS, SURFACE, MARKUPS = "image", "segmentation", "points", "surface", "markups"
BETWEEN_LABELS = (
    "It looks like a label map, and between two labels this interpolation makes numbers of others. Choose "
    "--interpolation nearest or labels."
)


@dataclass(frozen=True)
class Wishes:
    """How files are carried.

    reference: the grid of images (None: that of the first displacement, else the input's own). spacing: of the
    reference, mm, one or three. interpolation: None is linear, nearest for segmentations. background: as in
    resampling.carried. crop: images to what is not background. frame: RAS or LPS, of tables and surfaces that do not
    say it (None: RAS and LPS). series: of inputs that are folders with DICOM files, as in read_image.
    """

    reference: Grid | None = None
    spacing: tuple[float, ...] | None = None
    interpolation: str | None = None
    background: float | None = None
    crop: bool = False
    frame: str | None = None
    series: str | None = None


def kind_of(path: str | Path) -> str:
    """What a file is, by its name, and for .vtk by what it holds."""
    name = Path(path).name.lower()
    if name.endswith(segmentations.SUFFIX):
        return SEGMENTATION
    if name.endswith(points.SUFFIXES):
        return POINTS
    if name.endswith(surfaces.SUFFIXES):
        if name.endswith(".vtk") and Path(path).is_file():
            with Path(path).open("rb") as file:
                return IMAGE if b"STRUCTURED_POINTS" in file.read(1000) else SURFACE
        return SURFACE
    return IMAGE


def check_names(source: str | Path, target: str | Path) -> None:
    """Raise InputError where the output's name asks for another kind of file than the input is."""
    kind, wanted = kind_of(source), kind_of(target)
    suffix = Path(source).suffix
    if kind != wanted and not (kind == IMAGE and wanted == SURFACE and Path(target).suffix == ".vtk"):
        raise InputError(f"{Path(source).name} holds {_NAMES[kind]}, and {Path(target).name} is no name for that.")
    if kind == POINTS and suffix != Path(target).suffix:
        raise InputError(f"Landmarks keep their format: give the output the suffix {suffix}.")


def check_wishes(sources: Sequence[str | Path], wishes: Wishes) -> None:
    """Raise InputError for a wish that none of the inputs can heed."""
    # Slicer's markups are points whose frame is in their file.
    kinds = [MARKUPS if str(one).lower().endswith(points.MARKUPS) else kind_of(one) for one in sources]
    pointed = {POINTS, SURFACE, MARKUPS}
    for whom, others, given in (
        (
            "images",
            pointed,
            {
                "--spacing": wishes.spacing,
                "--interpolation": wishes.interpolation,
                "--background": wishes.background,
                "--crop": wishes.crop or None,
            },
        ),
        ("tables and surfaces", {IMAGE, SEGMENTATION, MARKUPS}, {"--frame": wishes.frame}),
    ):
        for option, value in given.items():
            if value is not None and others.issuperset(kinds):
                what = "points" if kinds[0] in pointed else _NAMES[kinds[0]]
                holds = "says its own" if kinds[0] == MARKUPS and others is not pointed else f"holds {what}"
                raise InputError(f"{option} is for {whom}; {Path(sources[0]).name} {holds}. Leave it out.")


_NAMES = {IMAGE: "an image", SEGMENTATION: "a segmentation", POINTS: "landmarks", SURFACE: "a surface"}


def apply_to_file(chain: Chain, source: str | Path, stage: Path, target: Path, wishes: Wishes) -> str:
    """Carry the file `source` and write it to `stage`, which becomes `target`; what was done, in a sentence.

    Images are resampled: each voxel of the reference looks up T(x) in the input. Points go the other way, from the
    input to the reference, by the inverse of T. Raises errors of this library.
    """
    kind = kind_of(source)
    if kind in (POINTS, SURFACE):
        mover = _Mover(chain)
        if kind == POINTS:
            stage.write_text(points.carried(source, mover, wishes.frame), encoding="utf-8")
        else:
            surfaces.carried(source, stage, mover, wishes.frame)
        return (
            f"{Path(source).name}: {mover.count} points carried from the input to the reference, by the inverse of the "
            f"transforms{mover.remark}"
        )
    if kind == SEGMENTATION:
        result, how = carried_image(chain, segmentations.read(source), wishes, segments=True)
        segmentations.write(result, stage, target)
        told = result.told
    else:
        given = read_frames(source, series=wishes.series)
        result, how = carried_image(chain, given, wishes)
        lost = write_frames(result, stage, target)
        told = (*result.told, lost) if lost else result.told
        if how in ("linear", "cubic") and given.components == 1 and looks_like_labels(given.values[0]):
            told = (*told, BETWEEN_LABELS)
    size = " x ".join(map(str, result.grid.size))
    frames = f", {len(result.values)} frames" if len(result.values) > 1 else ""
    doubts = "".join(f"\n  Warning: {text}" for text in told)
    return (
        f"{Path(source).name}: resampled onto {size} voxels{frames} ({how}), each looked up in the input by the "
        f"transforms, from the reference to the input{doubts}"
    )


def carried_image(chain: Chain, frames: Frames, wishes: Wishes, segments: bool = False) -> tuple[Frames, str]:
    """The frames as wished, and the name of the interpolation."""
    how = wishes.interpolation or ("nearest" if segments else "linear")
    if segments and how not in ("nearest", "labels"):
        raise InputError(f"A segmentation holds labels: use the interpolation nearest or labels, not {how}.")
    reference = wishes.reference or chain.own_grid or frames.grid
    if wishes.spacing:
        reference = resampling.spaced(reference, list(wishes.spacing))
    background = wishes.background
    if background is None:
        background = 0.0 if how == "labels" or segments else resampling.smallest(frames.values)
    result = resampling.carried(frames, chain, reference, how, background)
    return (resampling.cropped(result, background) if wishes.crop else result), how


class _Mover:
    """Carries points by the inverse of a chain and remembers how well that went."""

    def __init__(self, chain: Chain) -> None:
        self._back = chain.inverse()
        self.count, self.remark = 0, ""

    def __call__(self, points_ras: np.ndarray) -> np.ndarray:
        moved = self._back.transform_points(points_ras)
        tolerance = max((part.tolerance_mm for part in self._back.bent), default=0.0)
        bad = np.flatnonzero(moved.missed > 10 * tolerance)
        self.count += len(points_ras)
        if len(bad) > LARGEST_PART_WITHOUT_INVERSE * len(points_ras):
            raise FieldError(
                f"{len(bad)} of {len(points_ras)} points cannot be carried (the first is number {bad[0] + 1}): the "
                "transform folds there and has no inverse. Use a smoother field, or give the inverse that the program "
                "wrote with it, as FILE:inverse."
            )
        if len(bad):
            self.remark = f" ({len(bad)} of them lie in folds, and are off by up to {moved.missed.max():.2f} mm)"
        return moved.points
