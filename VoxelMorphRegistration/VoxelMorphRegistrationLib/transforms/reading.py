"""Transform files by name: which reader takes which, and what the words behind a name mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..images.grid import Grid, check_matrix
from ..images.places import check_file
from . import itk, lta, matrices, vectors, voxelmorph
from .chain import Chain
from .parts import Matrix

INVERSE = "inverse"
CONVENTIONS = ("auto", "voxelmorph", "fsl")
_MEANT = {
    "voxelmorph": "a field in voxels of VoxelMorph or SynthMorph, which is NIfTI or .npz",
    "fsl": "a matrix of FSL, which is a text of four rows of four numbers (fields of FNIRT are not read)",
}


@dataclass(frozen=True)
class Named:
    """A transform as it is named on the command line: FILE, FILE:inverse, FILE:voxelmorph, FILE:fsl:inverse."""

    path: Path
    inverted: bool = False
    convention: str = "auto"

    @staticmethod
    def of(text: str, convention: str = "auto") -> Named:
        """convention: of files for which none is said behind the name, where it fits their kind."""
        name, words = text, []
        while True:
            head, colon, word = name.rpartition(":")
            if not colon or word not in (INVERSE, *CONVENTIONS):
                break
            name = head
            words.append(word)
        said = [word for word in words if word != INVERSE]
        if len(said) > 1 or not name:
            raise InputError(f"'{text}' is no transform: give a file, and behind it :inverse, :voxelmorph or :fsl.")
        return Named(Path(name), words.count(INVERSE) % 2 == 1, said[0] if said else convention)


def read_chain(
    names: Sequence[str | Named],
    convention: str = "auto",
    fixed: Grid | None = None,
    moving: Grid | None = None,
    told: list[str] | None = None,
) -> Chain:
    """The transforms of `names`, the first one applied first to positions of the reference. Raises InputError.

    fixed, moving: the grids of the images, for files that need them (FSL's matrices, .npz fields). told: gets
    sentences about files that could mean something else than what they were taken for.
    """
    chain = Chain()
    for name in names:
        named = name if isinstance(name, Named) else _named(name, convention)
        found = read_transform(named.path, named.convention, fixed, moving)
        if told is not None and named.convention == "auto" and _could_be_fsl(named.path):
            told.append(
                f"The matrix in {named.path.name} was taken as RAS mm from fixed to moving, as greedy writes it. If it "
                f"is FSL's (FLIRT), say so: {named.path.name}:fsl."
            )
        chain = chain.then(found.inverse() if named.inverted else found)
    return chain


def _named(text: str, convention: str) -> Named:
    """With `convention` where none is said behind the name, and where it fits the kind of file."""
    said = Named.of(text)
    return Named.of(text, convention if said.path.is_file() and _fits(said.path, convention) else "auto")


def _fits(path: Path, convention: str) -> bool:
    """Whether files of this kind can mean what a convention says."""
    fields = path.name.lower().endswith((*vectors.SUFFIXES, ".npz"))
    if convention == "voxelmorph":
        return fields
    return convention == "auto" or (not fields and matrices.rows_of_numbers(path) is not None)


def _could_be_fsl(path: Path) -> bool:
    """Whether a file is a matrix in text under the suffix that FLIRT and greedy give it."""
    return path.suffix.lower() == ".mat" and matrices.rows_of_numbers(path) is not None


def read_transform(
    path: str | Path, convention: str = "auto", fixed: Grid | None = None, moving: Grid | None = None
) -> Chain:
    """One file, as it is. Raises InputError."""
    path = Path(path)
    if convention not in CONVENTIONS:
        raise InputError(f"There is no convention '{convention}': use one of {', '.join(CONVENTIONS)}.")
    check_file(path, "transform")
    if not _fits(path, convention):
        # Taken for something else, it would carry everything to a wrong place.
        raise InputError(
            f"{path.name} cannot be taken as {_MEANT[convention]}. Leave :{convention} out, or convert it."
        )
    name = path.name.lower()
    if name.endswith(".lta"):
        return lta.read(path)
    if name.endswith(".npz"):
        return voxelmorph.read(path, fixed)
    if name.endswith(vectors.SUFFIXES):
        return voxelmorph.read(path, fixed) if convention == "voxelmorph" else vectors.read(path)
    if name.endswith((".mgz", ".mgh", ".m3z")):
        raise InputError(
            f"{path.name} is a file of FreeSurfer that is not known here. Write a linear one as .lta, and a field as "
            "NIfTI in voxels."
        )
    if name.endswith(".xfm"):
        # ITK takes their numbers for LPS; they are RAS, and lead from moving to fixed.
        raise InputError(
            f"{path.name} is a transform of MINC or FreeSurfer, from moving to fixed, which is not read here. Convert "
            f"it (lta_convert --inmni {path.name} --outlta {path.stem}.lta), or write the inverse of its matrix as "
            "text: four rows of four numbers, RAS mm."
        )
    rows = matrices.rows_of_numbers(path)
    if rows is not None:
        if convention == "fsl":
            return matrices.read_fsl(path, fixed, moving)
        return Chain.of([Matrix(check_matrix(rows, f"transform in {path}"))])
    return itk.read(path)
