"""Grids and images: where voxels are in the patient, and how one image is brought onto the grid of another.

Frames: positions are RAS millimetres, as in Slicer. Arrays are (K, J, I), slowest axis first, as numpy and
Slicer's `arrayFromVolume` have them; matrices act on (i, j, k). Files hold LPS and are converted here only.
A 2D image is a grid with exactly one axis of a single voxel.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .errors import InputError, OutputError

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AXIS_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular voxel grid in space.

    shape: (K, J, I), each at least 1. ijk_to_ras: (4, 4), the centre of voxel (i, j, k) in RAS mm; any
    direction, spacing and handedness. Raises InputError on a singular or non-finite matrix.
    """

    shape: tuple[int, int, int]
    ijk_to_ras: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"A grid needs three sizes of at least one voxel, not {self.shape}.")
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise InputError("The matrix from voxels to space must be 4x4 with finite numbers.")
        columns = np.linalg.norm(matrix[:3, :3], axis=0)
        if columns.min() <= 0 or abs(np.linalg.det(matrix[:3, :3] / columns)) < 1e-6:
            raise InputError(
                "The matrix from voxels to space is singular: two image axes coincide or a spacing is zero. "
                "Correct the image's spacing and directions."
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def ras_to_ijk(self) -> np.ndarray:
        return np.linalg.inv(self.ijk_to_ras)

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along i, j, k in mm."""
        return np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @property
    def directions(self) -> np.ndarray:
        """(3, 3), unit vectors of the i, j, k axes in RAS as columns."""
        return self.ijk_to_ras[:3, :3] / self.spacing

    @property
    def size(self) -> np.ndarray:
        """Numbers of voxels along i, j, k."""
        return np.array(self.shape[::-1])

    @property
    def voxel_count(self) -> int:
        return math.prod(self.shape)

    @property
    def dimension(self) -> int:
        """2 if exactly one axis has a single voxel, else 3."""
        return 2 if self.shape.count(1) == 1 else 3

    @property
    def flat_axis(self) -> int | None:
        """The array axis (0 for k) that has a single voxel in a 2D grid."""
        return self.shape.index(1) if self.dimension == 2 else None

    @property
    def center_ras(self) -> np.ndarray:
        return self.to_ras((self.size - 1) / 2.0)

    @property
    def is_orthogonal(self) -> bool:
        """Whether the axes are at right angles (to 1e-3, the rounding of common file headers)."""
        gram = self.directions.T @ self.directions
        return bool(np.abs(gram - np.eye(3)).max() < 1e-3)

    @property
    def orientation(self) -> str:
        """Directions in which i, j, k grow, such as "RAS" or "LIA"."""
        axes = enumerate(_closest_axes(self))
        return "".join(_AXIS_LETTERS[axis][int(self.directions[axis, column] > 0)] for column, axis in axes)

    def to_ras(self, ijk: np.ndarray) -> np.ndarray:
        """Positions (..., 3) in voxels (i, j, k) to RAS mm."""
        return np.asarray(ijk, dtype=np.float64) @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3]

    def to_ijk(self, ras: np.ndarray) -> np.ndarray:
        """Positions (..., 3) in RAS mm to voxels (i, j, k)."""
        inverse = self.ras_to_ijk
        return np.asarray(ras, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def positions(self) -> np.ndarray:
        """RAS position of every voxel centre, (K, J, I, 3) float64."""
        k, j, i = np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij")
        return self.to_ras(np.stack([i, j, k], -1))

    def corners(self) -> np.ndarray:
        """The eight outer corners (voxel edges, not centres) in RAS mm, (8, 3)."""
        ends = [(-0.5, n - 0.5) for n in self.size]
        return self.to_ras(np.array(list(itertools.product(*ends))))

    def contains(self, ras: np.ndarray) -> np.ndarray:
        """Whether positions (..., 3) lie within the outer voxel edges."""
        ijk = self.to_ijk(ras)
        return np.all((ijk >= -0.5 - 1e-6) & (ijk <= self.size - 0.5 + 1e-6), axis=-1)

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Whether both have the same shape and their corners agree within `tolerance_mm`."""
        return self.shape == other.shape and bool(np.abs(self.corners() - other.corners()).max() < tolerance_mm)

    def transformed(self, matrix: np.ndarray) -> Grid:
        """The grid moved by a 4x4 matrix in RAS."""
        return Grid(self.shape, np.asarray(matrix, dtype=np.float64) @ self.ijk_to_ras)

    def cropped(self, start_ijk: np.ndarray, size_ijk: np.ndarray) -> Grid:
        """The same lattice of voxels with another start (may be negative) and size."""
        matrix = self.ijk_to_ras.copy()
        matrix[:3, 3] = self.to_ras(start_ijk)
        return Grid(tuple(int(n) for n in np.asarray(size_ijk)[::-1]), matrix)

    def to_json(self) -> dict:
        return {"shape_kji": list(self.shape), "ijk_to_ras": self.ijk_to_ras.tolist()}


def _closest_axes(grid: Grid) -> tuple[int, int, int]:
    """For i, j, k the RAS axis each follows best, one axis each."""
    size = np.abs(grid.directions)
    return max(itertools.permutations(range(3)), key=lambda p: sum(size[p[c], c] for c in range(3)))


def reoriented(grid: Grid, orientation: str) -> Grid:
    """The same voxels with i, j, k permuted and flipped to lie as close as possible to `orientation`, e.g. "LIA"."""
    wanted = [next(a for a, letters in enumerate(_AXIS_LETTERS) if c in letters) for c in orientation]
    if sorted(wanted) != [0, 1, 2]:
        raise InputError(f"'{orientation}' is not an orientation: give one letter of each pair L/R, P/A, I/S.")
    axes = _closest_axes(grid)
    matrix = np.eye(4)
    matrix[:3, 3] = grid.ijk_to_ras[:3, 3]
    size = []
    for new, (ras_axis, letter) in enumerate(zip(wanted, orientation, strict=True)):
        old = axes.index(ras_axis)
        column = grid.ijk_to_ras[:3, old]
        if (column[ras_axis] > 0) != (letter == _AXIS_LETTERS[ras_axis][1]):
            matrix[:3, 3] += column * (grid.size[old] - 1)
            column = -column
        matrix[:3, new] = column
        size.append(int(grid.size[old]))
    return Grid(tuple(size[::-1]), matrix)


def orthogonalised(grid: Grid) -> Grid:
    """`grid` itself if its axes are at right angles, else the closest orthogonal grid that covers it.

    A linear parent transform may shear a grid; the axes are then those of the polar decomposition.
    """
    if grid.is_orthogonal:
        return grid
    u, _, vt = np.linalg.svd(grid.directions)
    rotation = u @ vt
    corners = grid.corners() @ rotation
    low, extent = corners.min(0), np.ptp(corners, axis=0)
    spacing = grid.spacing
    size = np.maximum(np.ceil(extent / spacing - 1e-6).astype(int), 1)
    size[grid.size == 1] = 1
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing
    first = low + extent / 2 - (size - 1) * spacing / 2
    matrix[:3, 3] = rotation @ first
    return Grid(tuple(size[::-1]), matrix)


def working_grid(
    fixed: Grid,
    spacing_mm: float | tuple[float, float, float] | None = None,
    stride: int = 1,
    orientation: str | None = None,
) -> Grid:
    """The grid on which a network sees the images: it covers every voxel of `fixed`, edges included.

    spacing_mm: along i, j, k after reorientation (None keeps the fixed spacing). Where it equals the fixed
    spacing (to 0.1 %), the voxel centres coincide, so that nothing is interpolated. Sizes are rounded up to
    multiples of `stride`, evenly on both sides; a 2D grid stays one voxel thick.
    """
    base = orthogonalised(fixed)
    if orientation is not None:
        base = reoriented(base, orientation)
    old = base.spacing
    new = old if spacing_mm is None else np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), (3,))
    if not np.isfinite(new).all() or min(new) <= 0:
        raise InputError(f"The working spacing must be positive, not {spacing_mm}.")
    matrix = base.ijk_to_ras.copy()
    size, start = [], []
    for axis in range(3):
        count = int(base.size[axis])
        if base.dimension == 2 and count == 1:
            size.append(1)
            start.append(0.0)
            continue
        ratio = new[axis] / old[axis]
        if abs(ratio - 1) < 1e-3:
            ratio, needed = 1.0, count
        else:
            needed = max(1, math.ceil(count / ratio - 1e-6))
        padded = -(-needed // stride) * stride
        size.append(padded)
        matrix[:3, axis] *= ratio
        # Same lattice: pad by whole voxels. Otherwise: centred on the fixed field of view.
        start.append(-float((padded - needed) // 2) if ratio == 1.0 else (count - 1 - (padded - 1) * ratio) / 2)
    matrix[:3, 3] = base.to_ras(start)
    return Grid(tuple(size[::-1]), matrix)


@dataclass(frozen=True, eq=False)
class Image:
    """Voxel values on a grid. array: (K, J, I) numeric; name: what messages call it."""

    array: np.ndarray = field(repr=False)
    grid: Grid
    name: str = "image"

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise InputError(
                f"The {self.name} has an array of {self.array.shape} voxels but a grid of {self.grid.shape}."
            )

    def with_array(self, array: np.ndarray, name: str | None = None) -> Image:
        """Other values on the same grid."""
        return Image(array, self.grid, self.name if name is None else name)

    def renamed(self, name: str) -> Image:
        return replace(self, name=name)


def rotation(angles: np.ndarray) -> np.ndarray:
    """(3, 3), the rotations by `angles` (3,) in radians about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        result = turn @ result
    return result


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box of slices that holds all True voxels of a mask (K, J, I) with at least one."""
    ranges = (np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
    return tuple(slice(int(r[0]), int(r[-1]) + 1) for r in ranges)


def check_matrix(matrix: np.ndarray, what: str) -> np.ndarray:
    """A linear transform as a (4, 4) float64 array; raises InputError when it is not affine and invertible."""
    result = np.array(matrix, dtype=np.float64)
    if result.shape != (4, 4) or not np.isfinite(result).all() or np.abs(result[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise InputError(f"The {what} must be a 4x4 matrix of finite numbers whose last row is 0 0 0 1.")
    if abs(np.linalg.det(result[:3, :3])) < 1e-6:
        raise InputError(f"The {what} is singular: it flattens space. Give an invertible matrix.")
    return result


def resample(
    image: Image,
    grid: Grid,
    matrix_ras: np.ndarray | None = None,
    background: float = 0.0,
    smooth: bool = False,
) -> Image:
    """`image` on another grid, by one linear interpolation from its original voxels.

    matrix_ras: (4, 4) from positions of `grid` to positions in `image` (identity when None).
    background: value outside the image. smooth: suppress detail finer than `grid` can hold before sampling.
    Returns float32.
    """
    import torch

    from . import sampling

    matrix = np.eye(4) if matrix_ras is None else np.asarray(matrix_ras, dtype=np.float64)
    to_source = image.grid.ras_to_ijk @ matrix @ grid.ijk_to_ras
    if _same_lattice(to_source):
        return Image(
            _lattice_copy(image.array, np.rint(to_source).astype(int), grid.shape, background), grid, image.name
        )
    source = torch.from_numpy(np.ascontiguousarray(image.array, dtype=np.float32))
    out = np.empty(grid.shape, dtype=np.float32)
    sigmas = _smoothing(to_source) if smooth else (0.0, 0.0, 0.0)
    straight = None
    # A sum with a weight of zero still sees what is not finite.
    if bool(source.isfinite().all()):
        straight = sampling.AxisReader.of(source[None], to_source, grid.shape, sigmas)
    if straight is not None:
        for rows in sampling.slabs(grid.shape):
            out[rows] = straight(rows)[0].numpy()
        for axis, line in enumerate(straight.inside):
            out[(slice(None),) * axis + (~line,)] = background
        return Image(out, grid, image.name)
    source = (sampling.gaussian_smooth(source[None, None], sigmas) if smooth else source[None, None]).contiguous()
    for rows in sampling.slabs(grid.shape):
        positions = sampling.affine_positions(to_source, grid.shape, rows)
        values = sampling.sample(source, positions[None])[0, 0]
        values[~sampling.inside(positions, image.grid.shape)] = background
        out[rows] = values.numpy()
    return Image(out, grid, image.name)


def smoothed(image: Image, to_source: np.ndarray) -> Image:
    """`image` without the detail that a coarser grid cannot hold, float32.

    to_source: (4, 4), voxels of that grid to voxels of the image. The Gaussian has sigma = 0.5 sqrt(ratio^2 - 1)
    voxels along each axis, ratio being how far a step of the grid moves there.
    """
    import torch

    from . import sampling

    volume = torch.from_numpy(np.ascontiguousarray(image.array, dtype=np.float32))[None, None]
    return image.with_array(sampling.gaussian_smooth(volume, _smoothing(to_source))[0, 0].numpy())


def _smoothing(to_source: np.ndarray) -> tuple[float, ...]:
    """The Gaussian of `smoothed`: sigmas in voxels of the image, along its array axes."""
    ratio = np.abs(to_source[:3, :3]).max(axis=1)
    return tuple(0.5 * np.sqrt(np.maximum(ratio**2 - 1.0, 0.0))[::-1])


def _same_lattice(to_source: np.ndarray) -> bool:
    """Whether every output voxel centre is a source voxel centre (or its continuation outside)."""
    whole = np.rint(to_source)
    return bool(np.abs(to_source - whole).max() < 1e-4 and (np.abs(whole[:3, :3]).sum(0) == 1).all())


def _lattice_copy(array: np.ndarray, to_source: np.ndarray, shape: tuple[int, ...], background: float) -> np.ndarray:
    """`array` with its axes permuted and flipped, cropped and padded, by an integer map of output to source ijk."""
    source_axis = np.abs(to_source[:3, :3]).argmax(0)
    out = np.full(shape, background, np.float32)
    order, read, write = [], [], []
    for array_axis in range(3):
        voxel_axis = 2 - array_axis
        old = int(source_axis[voxel_axis])
        step, start = int(to_source[old, voxel_axis]), int(to_source[old, 3])
        count = array.shape[2 - old]
        positions = start + step * np.arange(shape[array_axis])
        valid = np.flatnonzero((positions >= 0) & (positions < count))
        order.append(2 - old)
        read.append(positions[valid])
        write.append(slice(int(valid[0]), int(valid[-1]) + 1) if valid.size else slice(0, 0))
    if all(positions.size for positions in read):
        out[tuple(write)] = array.transpose(order)[tuple(_as_slice(positions) for positions in read)]
    return out


def _as_slice(positions: np.ndarray) -> slice:
    first, last = int(positions[0]), int(positions[-1])
    if first <= last:
        return slice(first, last + 1)
    return slice(first, last - 1 if last > 0 else None, -1)


# --- files ------------------------------------------------------------------------------------------------


def grid_from_sitk(image) -> Grid:
    """The grid of a 2D or 3D SimpleITK image (LPS there, RAS here)."""
    dimension = image.GetDimension()
    direction = np.eye(3)
    direction[:dimension, :dimension] = np.array(image.GetDirection()).reshape(dimension, dimension)
    spacing = np.ones(3)
    spacing[:dimension] = image.GetSpacing()
    if dimension == 2:
        spacing[2] = spacing[:2].mean()
    origin = np.zeros(3)
    origin[:dimension] = image.GetOrigin()
    matrix = np.eye(4)
    matrix[:3, :3] = direction * spacing
    matrix[:3, 3] = origin
    size = (*image.GetSize(), 1)[:3]
    return Grid(tuple(size[::-1]), LPS_FROM_RAS @ matrix)


def set_sitk_geometry(image, grid: Grid) -> None:
    """Give a 3D SimpleITK image the geometry of `grid`. Raises InputError for a sheared grid."""
    if not grid.is_orthogonal:
        raise InputError("Image files cannot hold sheared axes. Resample onto a grid with right angles first.")
    lps = LPS_FROM_RAS @ grid.ijk_to_ras
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(grid.spacing.tolist())
    # ITK refuses directions whose columns are not exactly orthonormal after rounding.
    u, _, vt = np.linalg.svd(lps[:3, :3] / grid.spacing)
    image.SetDirection((u @ vt).ravel().tolist())


def to_sitk(image: Image):
    """A 3D SimpleITK image of an Image."""
    import SimpleITK as sitk

    array = image.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    result = sitk.GetImageFromArray(array)
    set_sitk_geometry(result, image.grid)
    return result


def from_sitk(image, name: str = "image") -> Image:
    """An Image of a scalar 2D or 3D SimpleITK image. Raises InputError for vectors, RGB and time series."""
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"The {name} has {image.GetNumberOfComponentsPerPixel()} values a voxel (colour or vectors). "
            "Give a scalar image: convert it to grey values, or extract one component."
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        size = list(image.GetSize())
        size[3] = 0
        image = sitk.Extract(image, size, [0, 0, 0, 0])
    if image.GetDimension() > 3:
        raise InputError(
            f"The {name} has {image.GetSize()[3]} frames (a time series). Extract one frame and register that."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"The {name} has complex values. Give its magnitude.")
    array = sitk.GetArrayFromImage(image)
    if image.GetDimension() == 2:
        array = array[None]
    return Image(array, grid_from_sitk(image), name)


def read_image(path: str | Path, name: str | None = None) -> Image:
    """Read an image that SimpleITK knows: NIfTI, NRRD, MetaImage, TIFF, ... or a folder with one DICOM series.

    Raises InputError when the file is missing, unreadable, not scalar, a time series, or sheared.
    """
    import SimpleITK as sitk

    path = Path(path)
    label = name or path.name
    if not path.exists():
        raise InputError(f"The {label} cannot be read: there is no file {path}.")
    try:
        image = _read_dicom_folder(path, label) if path.is_dir() else sitk.ReadImage(str(path))
    except RuntimeError as error:
        text = str(error)
        if "orthonormal" in text:
            raise InputError(
                f"The {label} ({path}) has sheared axes, which image files here cannot express. "
                "Resample it onto a grid with right angles first."
            ) from error
        raise InputError(
            f"The {label} cannot be read from {path}: it is no image in a format known here "
            "(NIfTI, NRRD, MetaImage, TIFF, a DICOM folder, ...), or the file is damaged."
        ) from error
    return from_sitk(image, label)


def _read_dicom_folder(path: Path, label: str):
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(path))
    if not series:
        raise InputError(f"The {label} cannot be read: the folder {path} holds no DICOM series.")
    if len(series) > 1:
        raise InputError(
            f"The {label} is not one image: the folder {path} holds {len(series)} DICOM series. "
            "Give a folder with a single series."
        )
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path), series[0]))
    return reader.Execute()


def write_image(image: Image, path: str | Path) -> None:
    """Write an Image with its geometry. Raises OutputError when that fails."""
    import SimpleITK as sitk

    path = Path(path)
    try:
        if image.array.dtype.kind == "f" and path.name.endswith(".nii.gz"):
            _write_measured(to_sitk(image), path)
        else:
            sitk.WriteImage(to_sitk(image), str(path), useCompression=True, compressionLevel=1)
    except (RuntimeError, OSError) as error:
        raise OutputError(
            f"The {image.name} could not be written to {path}: check the folder's permissions and the free space."
        ) from error


def _write_measured(image, path: Path) -> None:
    """A compressed NIfTI file of numbers that hardly repeat: only runs are looked for, in less than half the time and
    to about the same size as with matches anywhere.
    """
    import SimpleITK as sitk

    compressor = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "image.nii"
        sitk.WriteImage(image, str(plain))
        with open(plain, "rb") as source, open(path, "wb") as target:
            while part := source.read(1 << 20):
                target.write(compressor.compress(part))
            target.write(compressor.flush())
