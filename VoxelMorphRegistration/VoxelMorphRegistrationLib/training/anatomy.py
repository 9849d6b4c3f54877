"""Registration pairs synthesised from label maps of real anatomy: no images are needed.

The recipe follows Hoffmann et al., "SynthMorph: learning contrast-invariant registration without acquired images",
IEEE TMI 2022: in each step two label maps of different subjects are warped, and an image of arbitrary contrast is
drawn from each. Added here: contrasts by tissue, crops of the organ at random voxel sizes, and a share of pairs from
one and the same map, whose true displacement is known.

The maps are brought into one space by the affine transforms that fit the centres of their structures best, so that a
pair starts as it does in use: linearly aligned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError, SettingsError
from ..images.files import read_image
from ..images.grid import Grid, bounding_box, rotation
from ..images.image import Image
from ..images.sampling import voxel_positions
from .files import stem_of
from .pairs import TRAINING_STREAM, StepSizes, TrainingPair
from .shapes import ShapeRecipe, Source, finish_image, half_resolution_labels, two_warps
from .supervision import Supervision

PLANES = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}


@dataclass(frozen=True)
class AnatomySection:
    """[anatomy]: pairs from the label maps in `folder`.

    validation: how many maps, the last by name, are kept for it. spacing_mm: voxel size of a step, drawn evenly from
    this range. same: share of pairs drawn twice from one map. different_warp: factor of shapes.displacement for pairs
    of different maps, which differ by themselves. rotation: of both copies, degrees. flip: mirror left and right at
    random. planes: of 2D slices. through_plane_mm: how far apart two slices may lie.

    outside: labels around the organ (skull, skin); strip: how often they are removed. edge: labels at the organ's edge
    (fluid) that go with them half of the time. tissues: groups of labels that look alike; typical: mean intensity of
    each tissue in the commonest images, and typical_share, how often it is drawn. spread: deviation of the labels of a
    tissue from its mean.
    """

    folder: str = ""
    validation: int = 2
    spacing_mm: tuple[float, float] = (1.5, 1.5)
    same: float = 0.2
    different_warp: float = 0.4
    rotation: float = 8.0
    flip: bool = True
    planes: tuple[str, ...] = ("sagittal", "coronal", "axial")
    through_plane_mm: float = 1.0
    outside: tuple[int, ...] = ()
    strip: float = 0.8
    edge: tuple[int, ...] = ()
    tissues: tuple[tuple[int, ...], ...] = ()
    typical: tuple[float, ...] = ()
    typical_share: float = 0.4
    spread: float = 0.06

    def __post_init__(self) -> None:
        if not 0 < self.spacing_mm[0] <= self.spacing_mm[1]:
            raise SettingsError(f"anatomy.spacing_mm must be a range [lowest, highest], not {list(self.spacing_mm)}.")
        if self.typical and len(self.typical) != len(self.tissues):
            raise SettingsError("anatomy.typical needs one intensity for each of anatomy.tissues.")
        for name in ("same", "strip", "typical_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"anatomy.{name} is a share between 0 and 1, not {getattr(self, name):g}.")
        unknown = sorted(set(self.planes) - set(PLANES))
        if unknown or not self.planes:
            raise SettingsError(f"anatomy.planes must name some of {', '.join(PLANES)}.")


@dataclass(frozen=True)
class LabelMap:
    """labels: (K, J, I) indices into `AnatomySource.names`, uint8. name: of the file, without its ending.

    from_common, to_own: (4, 4), position in the common space (RAS mm of the first map) to voxels (i, j, k), and to RAS
    mm of the map itself.
    """

    labels: torch.Tensor
    from_common: np.ndarray
    to_own: np.ndarray
    name: str
    _copies: dict[torch.device, torch.Tensor] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> torch.Tensor:
        """The labels on a device, where they stay once they are there."""
        if device not in self._copies:
            self._copies[device] = self.labels.to(device)
        return self._copies[device]


class AnatomySource:
    """Pairs from label maps. `names` are the labels in the maps, background first."""

    def __init__(
        self,
        section: AnatomySection,
        recipe: ShapeRecipe,
        supervision: Supervision,
        sizes: StepSizes,
        seed: int,
        base: Path = Path(),
    ) -> None:
        """supervision: whose overlap is trained. base: where a relative folder starts.

        Raises InputError when the maps cannot be used.
        """
        self.section, self.recipe, self.sizes, self.seed = section, recipe, sizes, seed
        self.supervision = supervision
        images = _read_maps(base / section.folder, section.validation)
        present = np.unique(np.concatenate([np.unique(image.array) for image in images]))
        self.names = (0, *(int(v) for v in present if v != 0))
        if len(self.names) > 255:
            raise InputError(
                f"The label maps in {base / section.folder} hold {len(self.names)} labels; 255 can be used."
            )
        outside = set(section.outside)
        inner = [n for n in self.names[1:] if n not in outside]
        if not set(inner) & set(supervision.observed):
            raise InputError(f"None of the structures to train with is in the label maps in {base / section.folder}.")
        self._values = torch.tensor(self.names)
        self._outside = torch.tensor([n in outside for n in self.names])
        self._edge = torch.tensor([n in section.edge for n in self.names])
        self._tissues = [[self.names.index(n) for n in tissue if n in self.names] for tissue in section.tissues]
        self._maps, self._box = _aligned_maps(images, self.names, inner)
        split = len(self._maps) - section.validation
        self._split = self._maps[:split], self._maps[split:] or self._maps

    @property
    def facts(self) -> str:
        return f"images synthesised from {len(self._split[0])} label maps with {len(self.names) - 1} labels"

    def pair(self, stream: int, number: int, device: torch.device | str) -> TrainingPair:
        """The pair that belongs to (seed, stream, number)."""
        section, shape = self.section, self.sizes.of(self.seed, stream, number)
        source = Source(torch.device(device), np.random.default_rng((self.seed, stream, number)))
        maps = self._split[0 if stream == TRAINING_STREAM else 1]
        first, second = source.numbers.choice(len(maps), 2, replace=False)
        same = source.chance(section.same)
        recipe = self.recipe if same else calmer(self.recipe, section.different_warp)
        to_common = placement(section, self._box, shape, source)
        fixed_warp, moving_warp, truth = two_warps(recipe, shape, source)
        if len(shape) == 2 and not same:
            apart = source.within((-section.through_plane_mm, section.through_plane_mm))
        else:
            apart = 0.0
        fixed = self.seen_labels(maps[first], fixed_warp, to_common)
        moving = self.seen_labels(maps[first if same else second], moving_warp, to_common, apart)
        return self.finished(torch.cat([fixed, moving]), truth if same else None, source)

    @property
    def training_maps(self) -> list[LabelMap]:
        """Those that are not kept for validation."""
        return self._split[0]

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the organ is in the common space, RAS mm (lowest, highest)."""
        return self._box

    def inner(self, labels: torch.Tensor) -> torch.Tensor:
        """Whether label indices of any shape are those of the organ: neither background nor outside."""
        return (labels > 0) & ~self._outside.to(labels.device)[labels]

    def seen_labels(
        self, source: LabelMap, warp: torch.Tensor, to_common: np.ndarray, apart: float = 0.0
    ) -> torch.Tensor:
        """Label indices (1, 1, *S) of a map seen through a warp (1, d, *S) in voxels of the step's grid."""
        ijk = seen_voxels(source.from_common, warp, to_common, apart).round_().long()
        labels = source.on(warp.device)
        size = torch.tensor(labels.shape[::-1], device=warp.device)
        seen = ((ijk >= 0) & (ijk < size)).all(-1)
        ijk = torch.minimum(ijk.clamp_(min=0), size - 1)
        i, j, k = ijk.unbind(-1)
        drawn = labels.reshape(-1)[(k * labels.shape[1] + j) * labels.shape[2] + i]
        return torch.where(seen, drawn, 0).long()[None, None]

    def finished(self, labels: torch.Tensor, truth: torch.Tensor | None, source: Source) -> TrainingPair:
        """Images and probabilities of both label maps (2, 1, *S)."""
        device = source.device
        gone = torch.zeros(len(self.names), dtype=torch.bool, device=device)
        if source.chance(self.section.strip):
            gone = gone | self._outside.to(device)
            if source.chance(0.5):
                gone = gone | self._edge.to(device)
        labels = torch.where(gone[labels], 0, labels)
        means = self._contrasts(source)
        outside = labels == 0 if gone.any() or not self._outside.any() else None
        images = [
            finish_image(
                self.recipe, means[n][labels[n : n + 1]], None if outside is None else outside[n : n + 1], source
            )
            for n in (0, 1)
        ]
        shares = self.supervision.probabilities(self._values.to(device)[labels])
        present = half_resolution_labels((labels[:1] > 0).long(), 2)[:, 1:]
        return TrainingPair(images[0], images[1], shares[:1], shares[1:], truth, None if truth is None else present)

    def _contrasts(self, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean intensities of the labels in the fixed and in the moving image; that of the background is 0."""
        fixed = self._contrast(source)
        if source.chance(self.recipe.related):
            moving = fixed + source.within((0.0, 0.06)) * source.normal(len(self.names))
        else:
            moving = self._contrast(source)
        fixed[0] = moving[0] = 0.0
        return fixed, moving

    def _contrast(self, source: Source) -> torch.Tensor:
        means = source.uniform(len(self.names))
        typical = bool(self.section.typical) and source.chance(self.section.typical_share)
        if self._tissues and (typical or source.chance(0.6)):
            for number, members in enumerate(self._tissues):
                base = self.section.typical[number] if typical else source.within((0.0, 1.0))
                spread = self.section.spread * (1.0 if typical else source.within((0.5, 2.0)))
                means[members] = base + spread * source.normal(len(members))
        return means.clamp_min(0.02)


def seen_voxels(from_space: np.ndarray, warp: torch.Tensor, to_space: np.ndarray, apart: float = 0.0) -> torch.Tensor:
    """Voxels (*S, 3), ordered i, j, k, of a map or scan that are seen through a warp (1, d, *S) of a step's grid.

    from_space: (4, 4), RAS mm to its voxels. to_space: as `placement` gives it. apart: how far out of the plane.
    """
    d = warp.shape[1]
    matrix = from_space @ np.concatenate([to_space, [[0, 0, 0, 1]]])
    offset = matrix[:3, 3] + (matrix[:3, 2] * apart if d == 2 else 0.0)
    ijk = voxel_positions(warp)[0] @ torch.as_tensor(matrix[:3, :d].T, dtype=torch.float32, device=warp.device)
    return ijk + torch.as_tensor(offset, dtype=torch.float32, device=warp.device)


def placement(
    section: AnatomySection, box: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...], source: Source
) -> np.ndarray:
    """(3, 4): voxels of the step's grid (i, j(, k), out of plane) to the common space; box: of the organ there."""
    d = len(shape)
    spacing = source.within(section.spacing_mm)
    low, high = box
    axes = (0, 1, 2) if d == 3 else PLANES[section.planes[source.numbers.integers(len(section.planes))]]
    if d == 2 and source.chance(0.5):
        axes = axes[::-1]
    across = [a for a in range(3) if a not in axes]
    linear = np.zeros((3, 3))
    for column, axis in enumerate((*axes, *across)):
        mirrored = section.flip and source.chance(0.5) and (axis == 0 or d == 2)
        linear[axis, column] = -1.0 if mirrored else 1.0
    linear = rotation(np.deg2rad(section.rotation) * source.numbers.uniform(-1, 1, 3)) @ linear
    linear[:, :d] *= spacing
    extent = np.zeros(3)
    extent[list(axes)] = spacing * np.array(shape[::-1])
    # The grid stays within the organ where it is smaller, and around it where it is larger.
    reach = np.maximum((high - low - extent) / 2, 5.0 * (extent > 0))
    if d == 2:
        reach[across] = 0.35 * (high - low)[across]
    centre = (low + high) / 2 + source.numbers.uniform(-1, 1, 3) * reach
    middle = np.zeros(3)
    middle[:d] = (np.array(shape[::-1]) - 1) / 2
    return np.concatenate([linear, (centre - linear @ middle)[:, None]], 1)


def calmer(recipe: ShapeRecipe, factor: float) -> ShapeRecipe:
    low, high = recipe.displacement
    return replace(recipe, displacement=(factor * low, factor * high))


def _read_maps(folder: Path, validation: int) -> list[Image]:
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} with label maps (setting anatomy.folder).")
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if len(paths) < validation + 2:
        raise InputError(
            f"{folder} holds {len(paths)} label maps; at least two for training and {validation} for validation "
            "(anatomy.validation) are needed."
        )
    images = []
    for path in paths:
        image = read_image(path)
        if image.array.dtype.kind == "f":
            whole = np.rint(image.array)
            if not np.array_equal(whole, image.array):
                raise InputError(f"{path} holds values that are not whole numbers; a label map is needed.")
            image = image.with_array(whole.astype(np.int32))
        if not image.array.any():
            raise InputError(f"The label map {path} is empty.")
        if image.grid.dimension != 3:
            raise InputError(
                f"The label map {path} is a slice; maps of volumes are needed (2D pairs are cut from them)."
            )
        images.append(image)
    return images


def _aligned_maps(
    images: list[Image], names: tuple[int, ...], inner: list[int]
) -> tuple[list[LabelMap], tuple[np.ndarray, np.ndarray]]:
    """The maps in the space of the first, and the box of its inner labels in RAS mm (lowest, highest)."""
    maps, reference, box = [], None, None
    for image in images:
        image = _cropped(image)
        centres = _centres(image, inner)
        if reference is None:
            reference, box = centres, _box(image, inner)
        common = sorted(set(centres) & set(reference))
        affine = _fitted_affine(
            np.array([reference[n][0] for n in common]),
            np.array([centres[n][0] for n in common]),
            np.sqrt([centres[n][1] for n in common]),
            image.name,
        )
        indices = np.searchsorted(np.array(names), image.array).astype(np.uint8)
        maps.append(LabelMap(torch.from_numpy(indices), image.grid.ras_to_ijk @ affine, affine, stem_of(image.name)))
    assert box is not None, "no image"
    return maps, box


def _cropped(image: Image) -> Image:
    """The part of a label map that has labels."""
    box = bounding_box(image.array > 0)
    return Image(np.ascontiguousarray(image.array[box]), grid_of_box(image.grid, box), image.name)


def grid_of_box(grid: Grid, box: tuple[slice, ...]) -> Grid:
    """The grid of the voxels in `box`, slices along K, J, I."""
    start, stop = (np.array([getattr(part, end) for part in box])[::-1] for end in ("start", "stop"))
    return grid.cropped(start, stop - start)


def _box(image: Image, inner: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Where 96 % of the voxels with inner labels are along each axis, in RAS mm (lowest, highest)."""
    voxels = np.stack(np.nonzero(np.isin(image.array[::2, ::2, ::2], inner)), 1)[:, ::-1] * 2
    positions = image.grid.to_ras(voxels)
    return np.percentile(positions, 2, axis=0), np.percentile(positions, 98, axis=0)


def _centres(image: Image, names: list[int]) -> dict[int, tuple[np.ndarray, float]]:
    """Centre in RAS mm and number of voxels of each label."""
    lookup = np.zeros(int(image.array.max()) + 1, np.intp)
    known = [(number, name) for number, name in enumerate(names) if name < len(lookup)]
    for number, name in known:
        lookup[name] = number + 1
    # Counts of each label along each axis: three marginals instead of the positions of all voxels.
    order = lookup[image.array]
    marginals = []
    for axis, size in enumerate(order.shape):
        line = np.arange(size).reshape([-1 if a == axis else 1 for a in range(3)])
        counts = np.bincount((order * size + line).ravel(), minlength=(len(names) + 1) * size)
        marginals.append(counts.reshape(-1, size)[1:])
    result = {}
    for number, name in known:
        total = float(marginals[0][number].sum())
        if total:
            kji = [counts[number] @ np.arange(counts.shape[1]) / total for counts in marginals]
            result[name] = (image.grid.to_ras(np.array(kji[::-1])), total)
    return result


def _fitted_affine(from_points: np.ndarray, to_points: np.ndarray, weights: np.ndarray, name: str) -> np.ndarray:
    """(4, 4) that carries the points (N, 3) onto each other best, by weighted least squares."""
    design = np.concatenate([from_points, np.ones((len(from_points), 1))], 1) * weights[:, None]
    # Structures on a line or in a plane leave the affine open.
    if len(from_points) < 4 or np.linalg.matrix_rank(design, tol=1e-3 * np.linalg.norm(design)) < 4:
        raise InputError(f"The label map {name} shares too few structures with the first one to be aligned with it.")
    solution = np.linalg.lstsq(design, to_points * weights[:, None], rcond=None)[0]
    matrix = np.eye(4)
    matrix[:3] = solution.T
    return matrix
