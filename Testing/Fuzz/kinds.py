"""Files of strangers, by kind: how they are made, and what reads them.

Each kind is a strategy of Hypothesis for the bytes of a file, the ending of its name, and a reader that may return or
raise an error of the library, and nothing else.
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(-5, 300),
    st.sampled_from([10**9, -(10**9), 2**63, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf")]),
    st.floats(),
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=12))
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)


@dataclass(frozen=True)
class Kind:
    """content: of the file's bytes. ending: of its name. read: the reader, given the path."""

    content: st.SearchStrategy[bytes]
    ending: str
    read: Callable[[Path], object]


# --- damage ------------------------------------------------------------------------------------------------------

_EXTREMES = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    struct.pack("<f", float("nan")),
]
_EDIT = st.tuples(
    st.sampled_from(["flip", "put", "cut", "insert", "repeat", "zero"]),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.sampled_from(_EXTREMES), st.binary(min_size=1, max_size=8)),
    st.integers(1, 4000),
)


def damaged(seeds: list[bytes], header: int = 0) -> st.SearchStrategy[bytes]:
    """One of the files with some places changed. header: half of the changes are in so many first bytes."""
    return st.builds(
        lambda seed, edits, first: _edited(seed, edits, header if first and header else len(seed)),
        st.sampled_from(seeds),
        st.lists(_EDIT, min_size=1, max_size=4),
        st.booleans(),
    )


def _edited(data: bytes, edits: list, reach: int) -> bytes:
    content = bytearray(data)
    for what, place, piece, count in edits:
        at = int(place * min(reach, len(content))) if content else 0
        match what:
            case "flip":
                for n, value in enumerate(piece):
                    if at + n < len(content):
                        content[at + n] ^= value
            case "put":
                content[at : at + len(piece)] = piece
            case "cut":
                del content[at : at + count]
            case "insert":
                content[at:at] = piece
            case "repeat":
                content[at:at] = content[at : at + count]
            case _:
                content[at : at + count] = bytes(min(count, len(content) - at))
    return bytes(content)


def lines(words: list[str], separators: str = ",;\t ") -> st.SearchStrategy[bytes]:
    """Text in lines of words, numbers and their separators."""
    word = st.one_of(st.sampled_from(words), NUMBERS.map(str), st.text(max_size=6))
    line = st.builds(lambda parts, sign: sign.join(parts), st.lists(word, max_size=6), st.sampled_from(separators))
    return st.lists(line, max_size=8).map(lambda all_: "\n".join(all_).encode("utf-8", "surrogatepass"))


def objects(names: list[str], seed: dict | None = None) -> st.SearchStrategy[bytes]:
    """JSON objects with some of these names, over those of `seed`."""
    changed = st.dictionaries(st.sampled_from(names), st.one_of(JSON, PLAIN), max_size=4)
    return changed.map(lambda values: json.dumps({**(seed or {}), **values}).encode())


# --- what is damaged ---------------------------------------------------------------------------------------------


@cache
def made() -> dict[str, bytes]:
    """Right files of each kind, small."""
    import h5py
    import nibabel
    import SimpleITK as sitk
    import torch

    from VoxelMorphRegistrationLib.networks.card import ModelCard
    from VoxelMorphRegistrationLib.networks.model import save_model
    from VoxelMorphRegistrationLib.networks.unet import UNet

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        image = sitk.GetImageFromArray(np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8))
        image.SetSpacing((1.0, 1.2, 2.0))
        for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif"):
            single = image[:, :, 0] if ending in (".png",) else image
            sitk.WriteImage(
                sitk.Cast(single, sitk.sitkUInt8) if ending == ".png" else single, str(place / f"a{ending}")
            )
        nibabel.save(nibabel.Nifti2Image(np.ones((4, 5, 6), np.float32), np.eye(4)), place / "a2.nii")
        sitk.WriteTransform(sitk.AffineTransform(3), str(place / "a.tfm"))
        sitk.WriteTransform(sitk.Euler3DTransform(), str(place / "a.h5"))
        sitk.WriteTransform(sitk.AffineTransform(3), str(place / "a.mat"))
        sitk.WriteImage(image, str(place / "a.vtk"))
        torch.manual_seed(0)
        network = UNet(3, (4, 6), (6, 6, 4))
        facts = {"encoder": [4, 6], "decoder": [6, 6, 4], "half_resolution": True}
        save_model(network.eval(), ModelCard("m", stride=4, architecture=facts), place / "a.pt")
        with h5py.File(place / "k.h5", "w") as file:
            config = {"unet_half_res": True, "int_steps": 7, "int_downsize": 2}
            file.attrs["model_config"] = json.dumps({"class_name": "VxmDense", "config": config})
            sizes = {
                "unet_enc_conv_0_0": (2, 3),
                "unet_dec_conv_0_0": (3, 4),
                "unet_dec_final_conv_0": (4, 4),
                "flow": (4, 3),
            }
            for name, (a, b) in sizes.items():
                group = file.create_group(f"model_weights/vxm_dense_{name}/vxm_dense_{name}")
                group["kernel:0"], group["bias:0"] = np.zeros((3, 3, 3, a, b), "f4"), np.zeros(b, "f4")
        torch.save({"format": "voxelmorph-training-checkpoint-1", "network": network.state_dict()}, place / "a.ckpt")
        for path in place.iterdir():
            found[path.name] = path.read_bytes()
    return found


@cache
def exported() -> bytes:
    """A network of torch.export with its facts inside; making it takes seconds."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.Conv3d(4, 3, 3, padding=1)

        def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
            return self.last(torch.relu(self.first(torch.cat([moving, fixed], 1))))

    sizes = dict.fromkeys((2, 3, 4), torch.export.Dim.AUTO)
    images = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    program = torch.export.export(Network().eval(), images, dynamic_shapes=(sizes, sizes))
    facts = {"name": "x", "dimension": 3, "stride": 4, "output": "displacement", "output_scale": 1.0}
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"voxelmorph.json": json.dumps(facts)})
    return buffer.getvalue()


def _rezipped(data: bytes, pick: float, change: Callable[[bytes], bytes]) -> bytes:
    """A zip archive with one record changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        chosen = names[int(pick * len(names))]
        for name in names:
            content = source.read(name)
            target.writestr(name, change(content) if name == chosen else content)
    return buffer.getvalue()


def damaged_inside(seed: bytes) -> st.SearchStrategy[bytes]:
    """An archive whose directory is right and one of whose records is not."""
    return st.builds(
        lambda pick, edits: _rezipped(seed, pick, lambda data: _edited(data, edits, len(data))),
        st.floats(0, 1, exclude_max=True),
        st.lists(_EDIT, min_size=1, max_size=3),
    )


# --- readers -----------------------------------------------------------------------------------------------------


def _card(path: Path):
    from VoxelMorphRegistrationLib.networks.card import ModelCard, read_facts

    card = ModelCard.from_dict(read_facts(path), path.name)
    card.to_json()
    return card.memory_bytes(10**6)


def _settings(path: Path):
    from VoxelMorphRegistrationLib.registration.settings import Settings

    return Settings.from_json(path.read_text(encoding="utf-8", errors="replace")).to_json()


def _points(path: Path):
    from VoxelMorphRegistrationLib.images.landmarks import read_points

    return read_points(path)


def _config(path: Path):
    from VoxelMorphRegistrationLib.training.config import load_config

    return load_config(path)


def _checkpoint(path: Path):
    from VoxelMorphRegistrationLib.training.beginnings import load_checkpoint

    return load_checkpoint(path)


def _keras(path: Path):
    from VoxelMorphRegistrationLib.networks.importers import import_keras

    return import_keras(path)


def _image(path: Path):
    from VoxelMorphRegistrationLib.images.files import read_image

    return read_image(path, "fixed image").array.sum()


def _transform(path: Path):
    from VoxelMorphRegistrationLib.transforms.reading import read_transform

    return read_transform(path)


def _model(path: Path):
    from VoxelMorphRegistrationLib.networks.model import load_model

    return load_model(path)


def _checked_model(path: Path):
    from VoxelMorphRegistrationLib.networks.model import check_model, load_model

    return check_model(load_model(path))


TOML_WORDS = [
    *("name", "shape", "steps", "source", "passes", "[network]", "encoder", "[loss]", "[shapes]", "[anatomy]"),
    *("=", "[", "]", '"x"', "[1, 2, 3]", "[[network]]", "true", "1979-05-27", "inf", "batch", "seed", "precision"),
]
POINT_WORDS = [
    "x",
    "y",
    "z",
    "label",
    "r",
    "a",
    "s",
    "l",
    "p",
    "0.5",
    "1e400",
    '"a, b"',
    '"',
    "nan",
    "# CoordinateSystem = 0",
]


@cache
def kinds() -> dict[str, Kind]:
    """The kinds by name."""
    from VoxelMorphRegistrationLib.networks.card import ModelCard
    from VoxelMorphRegistrationLib.registration.settings import Settings

    files = made()
    point = {"id": "1", "label": "a", "position": [1, 2, 3], "positionStatus": "defined", "orientation": [1, 0, 0]}
    markups = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [point]}
    markup_file = {"markups": [markups]}
    point_json = st.builds(
        lambda values, more: json.dumps(
            {"markups": [{**markups, **more, "controlPoints": [{**point, **values}]}]}
        ).encode(),
        st.dictionaries(st.sampled_from([*point, "x"]), JSON, max_size=3),
        st.dictionaries(st.sampled_from([*markups, "display"]), JSON, max_size=2),
    )
    images = {
        name: files[name] for name in ("a.nii", "a.nii.gz", "a2.nii", "a.nrrd", "a.mha", "a.png", "a.tif", "a.vtk")
    }
    found = {
        "cards": Kind(
            st.one_of(
                objects([f.name for f in fields(ModelCard)], {"name": "x"}), JSON.map(lambda v: json.dumps(v).encode())
            ),
            ".json",
            _card,
        ),
        "settings": Kind(
            st.one_of(
                objects([f.name for f in fields(Settings)]), JSON.map(lambda v: json.dumps(v).encode()), st.binary()
            ),
            ".json",
            _settings,
        ),
        "landmark tables": Kind(st.one_of(lines(POINT_WORDS), st.binary(max_size=60)), ".csv", _points),
        "landmark lists": Kind(lines(["vtkMRMLMarkupsFiducialNode_0", *POINT_WORDS], ","), ".fcsv", _points),
        "landmark markups": Kind(
            st.one_of(point_json, damaged([json.dumps(markup_file).encode()])), ".mrk.json", _points
        ),
        "training files": Kind(
            st.one_of(
                lines(TOML_WORDS, " \n="), damaged([b'name = "x"\nshape = [32, 32, 32]\n[network]\nencoder = [4]\n'])
            ),
            ".toml",
            _config,
        ),
        "checkpoints": Kind(
            st.one_of(damaged([files["a.ckpt"]]), damaged_inside(files["a.ckpt"])), ".ckpt", _checkpoint
        ),
        "Keras files": Kind(damaged([files["k.h5"]], 2048), ".h5", _keras),
        "models": Kind(st.one_of(damaged([files["a.pt"]]), damaged_inside(files["a.pt"])), ".pt", _model),
        "models (.pt2)": Kind(
            st.deferred(lambda: st.one_of(damaged([exported()]), damaged_inside(exported()))), ".pt2", _checked_model
        ),
        "transforms": Kind(
            st.one_of(damaged([files["a.tfm"]]), lines(["Transform:", "Parameters:", "#Insight"])), ".tfm", _transform
        ),
        "transforms (HDF5)": Kind(damaged([files["a.h5"]], 2048), ".h5", _transform),
        "transforms (.mat)": Kind(damaged([files["a.mat"]], 40), ".mat", _transform),
    }
    for name, data in images.items():
        ending = name[name.index(".") :]
        found[f"images ({'NIfTI-2' if '2' in name else ending})"] = Kind(damaged([data], 400), ending, _image)
    return found
