"""Training pairs of different people with a dense answer: displacement fields between label maps, found once.

Between two people the true displacement is missing, and with the overlap of labels alone a network loses its way inside
them. A teacher that may take its time and sees the labels (`teaching.make_fields`, or any other program) finds a field
between two label maps; a pair then is that field between random warps of both people, which makes any number of pairs
of it, and the composed field is what the network is to find.

A network of slices learns from fields between slices: of a plane through the fixed map, and of the moving one after the
affine map between both. Such a field has one layer of voxels, and beyond the affine map it stays in the plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InputError, SettingsError
from ..fields.displacement import DisplacementField
from ..fields.files import read_field
from ..images.sampling import compose, sample, voxel_positions
from .anatomy import AnatomySection, AnatomySource, LabelMap, calmer, placement
from .pairs import TRAINING_STREAM, TrainingPair
from .shapes import Source, doubled, half_warps
from .slices import placement_within

# Between the names of the fixed and the moving map; the files are uncompressed, since each is read whole at the start.
BETWEEN, ENDING = "--", ".nii"
# Keeps these pairs' random numbers apart from those of the label maps.
DRAW = 11

# Lowest and highest position, RAS mm.
Box = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class TeacherSection:
    """[teacher]: a share of the pairs of "anatomy" from the displacement fields between label maps in `folder`.

    A field FIXED--MOVING.nii is named by the two maps, one between slices of them FIXED--MOVING--NUMBER.nii. warp:
    factor of shapes.displacement for the random warps.
    """

    folder: str = ""
    share: float = 0.0
    warp: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise SettingsError(f"teacher.share is a share between 0 and 1, not {self.share:g}.")
        if self.warp < 0:
            raise SettingsError(f"teacher.warp must not be negative, not {self.warp:g}.")
        if bool(self.folder) != (self.share > 0):
            raise SettingsError("teacher.folder and teacher.share go together: give both, or none.")


@dataclass(frozen=True)
class Answer:
    """What carries a person onto another. beyond: (3, K, J, I), float16 RAS mm of the moving map, what the field adds
    to the affine map of the common space; K is 1 between two slices. to_voxels: (4, 4), position in the common space to
    its voxels.
    """

    fixed: LabelMap
    moving: LabelMap
    beyond: torch.Tensor
    to_voxels: np.ndarray

    @staticmethod
    def of(fixed: LabelMap, moving: LabelMap, field: DisplacementField) -> Answer:
        """field: from RAS mm of the fixed to RAS mm of the moving map, as `register` gives it for the two."""
        affine = (moving.to_own @ np.linalg.inv(fixed.to_own) - np.eye(4)) @ field.grid.ijk_to_ras
        k, j, i = (np.arange(size, dtype=np.float64) for size in field.grid.shape)
        parts = [
            field.displacement_ras[..., axis]
            - (row[0] * i[None, None] + row[1] * j[None, :, None] + row[2] * k[:, None, None] + row[3])
            for axis, row in enumerate(affine[:3])
        ]
        beyond = torch.from_numpy(np.stack(parts).astype(np.float16))
        return Answer(fixed, moving, beyond, field.grid.ras_to_ijk @ fixed.to_own)

    def placement(self, section: AnatomySection, box: Box, shape: tuple[int, ...], source: Source) -> np.ndarray:
        """(3, 4): voxels of a step's grid of `shape` to the common space, where box is that of the organ."""
        if len(shape) == 3:
            return placement(section, box, shape, source)
        _, _, rows, columns = self.beyond.shape
        return placement_within(section, np.linalg.inv(self.to_voxels), (columns, rows), shape, source)

    def between(self, to_common: np.ndarray, fixed: torch.Tensor, moving_inverse: torch.Tensor) -> torch.Tensor:
        """The displacement (1, d, *S/2), in half-resolution voxels, from the fixed to the moving copy.

        to_common: (3, 4), voxels of the step's grid to the common space. fixed: the displacement that draws the fixed
        copy; moving_inverse: the inverse of the one that draws the moving copy; (1, d, *S/2) in half-resolution voxels.
        """
        d = fixed.shape[1]
        to_common = np.concatenate([to_common, [[0, 0, 0, 1]]])
        # The half-resolution voxel p covers the voxels 2 p and 2 p + 1 of the step's grid.
        from_half = np.eye(4)
        from_half[:d, :d] *= 2
        from_half[:d, 3] = 0.5
        to_field = _tensor(self.to_voxels @ to_common @ from_half, fixed)
        at = voxel_positions(fixed) @ to_field[:d, :d].T + to_field[:d, 3]
        beyond = self.beyond if d == 3 else self.beyond[:, 0]
        added = sample(beyond.to(fixed)[None], at)
        to_half = _tensor(np.linalg.inv(self.moving.to_own @ to_common @ from_half)[:d, :3], fixed)
        voxels = torch.einsum("ab,nb...->na...", to_half, added)
        return compose(moving_inverse, fixed + voxels.flip(1))


class TeacherSource:
    """Pairs of different people, with the displacement that a teacher found."""

    def __init__(self, section: TeacherSection, maps: AnatomySource, base: Path) -> None:
        """maps: the people. Raises InputError when there is no field between two of those trained with."""
        self.section, self.maps = section, maps
        self.answers = read_answers(base / section.folder, maps)

    def pair(self, shape: tuple[int, ...], source: Source) -> TrainingPair:
        """A pair on a grid of `shape`, by the random numbers of `source`."""
        maps = self.maps
        answer = self.answers[source.numbers.integers(len(self.answers))]
        to_common = answer.placement(maps.section, maps.box, shape, source)
        fixed, moving, moving_inverse = half_warps(calmer(maps.recipe, self.section.warp), shape, source)
        truth = answer.between(to_common, fixed, moving_inverse)
        seen = [
            maps.seen_labels(person, doubled(warp, shape), to_common)
            for person, warp in ((answer.fixed, fixed), (answer.moving, moving))
        ]
        pair = maps.finished(torch.cat(seen), None, source)
        # Outside the organ the teacher saw nothing, and what leaves the grid of the step no network can see.
        pool = F.avg_pool3d if len(shape) == 3 else F.avg_pool2d
        counts = pool(maps.inner(seen[0]).float(), 2) * _stays(truth)
        return replace(pair, displacement=truth, visible=counts)


class WithTeacher:
    """Pairs from label maps, and a share of them with a teacher's answer. Validation has the former only."""

    def __init__(self, maps: AnatomySource, teacher: TeacherSource) -> None:
        self.maps, self.teacher = maps, teacher
        self.seed, self.sizes = maps.seed, maps.sizes

    @property
    def facts(self) -> str:
        share, count = 100 * self.teacher.section.share, len(self.teacher.answers)
        return f"{self.maps.facts}; {share:g} % of these pairs with {count} displacement fields of a teacher"

    def pair(self, stream: int, number: int, device: torch.device | str) -> TrainingPair:
        """The pair that belongs to (seed, stream, number)."""
        if stream == TRAINING_STREAM:
            source = Source(torch.device(device), np.random.default_rng((self.seed, stream, number, DRAW)))
            if source.chance(self.teacher.section.share):
                return self.teacher.pair(self.sizes.of(self.seed, stream, number), source)
        return self.maps.pair(stream, number, device)


def file_of(folder: Path, fixed: LabelMap, moving: LabelMap, number: int | None = None) -> Path:
    """Where the field between two maps lies, or the one between slices of them of that number."""
    names = [fixed.name, moving.name, *([] if number is None else [str(number)])]
    return folder / f"{BETWEEN.join(names)}{ENDING}"


def read_answers(
    folder: Path, maps: AnatomySource, read: Callable[[Path], DisplacementField] = read_field
) -> list[Answer]:
    """The fields in `folder` between maps that are trained with, in the order of their names.

    Those of other maps, such as the ones kept for validation, are left out. Raises InputError when none is left.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} with displacement fields (setting teacher.folder).")
    people = maps.training_maps
    pairs = [(fixed, moving) for fixed in people for moving in people if fixed is not moving]
    flat = len(maps.sizes.largest) == 2
    names = [path.name for path in folder.iterdir() if path.name.endswith(ENDING)]
    answers = []
    for fixed, moving in pairs:
        whole = file_of(folder, fixed, moving)
        for path in _between_slices(whole, names) if flat else [whole] if whole.name in names else []:
            field = read(path)
            answers.append(Answer.of(fixed, moving, _layer(field, path.name) if flat else field))
    if not answers:
        kind, example = ("slices of ", file_of(folder, *pairs[0], 1)) if flat else ("", file_of(folder, *pairs[0]))
        raise InputError(
            f"{folder} holds no displacement field between {kind}two of the label maps that are trained with, such as "
            f"{example.name} (setting teacher.folder). 'voxelmorph teach' makes them."
        )
    return answers


def _between_slices(whole: Path, names: list[str]) -> list[Path]:
    """Of the files of those `names`, the fields between slices of the maps whose own would be `whole`, by number."""
    start = f"{whole.name.removesuffix(ENDING)}{BETWEEN}"
    numbers = [name.removeprefix(start).removesuffix(ENDING) for name in names if name.startswith(start)]
    return [whole.with_name(f"{start}{number}{ENDING}") for number in sorted(filter(str.isdecimal, numbers), key=int)]


def _layer(field: DisplacementField, name: str) -> DisplacementField:
    """The middle layer of a field between slices, which has one, or three, as readers of transforms want it."""
    layers = field.grid.shape[0]
    if layers not in (1, 3):
        raise InputError(f"{name} has {layers} layers of voxels: a field between two slices has one or three.")
    middle = layers // 2
    return DisplacementField(
        field.displacement_ras[middle : middle + 1], field.grid.cropped((0, 0, middle), (*field.grid.size[:2], 1))
    )


def _stays(displacement: torch.Tensor) -> torch.Tensor:
    """(1, 1, *S): 1 where p + u(p), u (1, d, *S) in voxels, lies between the voxels of the grid, else 0."""
    size = displacement.new_tensor(displacement.shape[:1:-1])
    positions = voxel_positions(displacement)
    return ((positions >= 0) & (positions <= size - 1)).all(-1)[:, None].float()


def _tensor(matrix: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(matrix, dtype=like.dtype, device=like.device)
