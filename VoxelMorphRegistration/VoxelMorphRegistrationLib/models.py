"""Model files: a TorchScript network with its facts inside. The only room that calls torch.jit.

A model file is a TorchScript archive whose `forward(moving, fixed)` takes (N, 1, *S) tensors in [0, 1] and returns
(N, d, *S'), channel c along tensor axis c. Its facts (ModelCard) are a JSON in the archive under CARD_FILE, or, for
a file from elsewhere, in a JSON of the same name beside it.
"""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ModelError, OutputError

if TYPE_CHECKING:
    import torch

CARD_FILE = "voxelmorph.json"
CARD_FORMAT = "voxelmorph-registration-model"
CARD_VERSION = 1
CHOICES = {
    "dimension": (2, 3),
    "output": ("velocity", "displacement"),
    "flow_alignment": ("centers", "corners"),
    "returns": ("flow", "moved and field"),
    "axes": ("kji", "ijk"),
}
NORMALIZATIONS = ("percentile", "white-matter")


@dataclass(frozen=True)
class ModelCard:
    """What a network needs and where it comes from.

    dimension: 2 or 3. spacing_mm: the voxel size (i, j, k) it was trained at, or None: it works at any scale, and
    the working grid is chosen to have about `target_voxels` voxels. shape: sizes of a network locked to one
    shape, in the order of `axes`. orientation: directions of i, j, k such as "LIA" that it was trained in, or None.
    stride: sizes must be multiples of it. output: "velocity" (stationary, to be integrated in `integration_steps`
    squarings) or "displacement". output_scale: network grid voxels in one output unit (2 for a flow in
    half-resolution voxels). flow_alignment: "centers" when output voxel p covers the network voxels from p * scale
    on, "corners" when the first and the last voxel centres of both grids coincide. returns: "flow", or "moved and
    field" for foreign networks that return both, in either order. axes: order of the tensor axes, "kji" as numpy
    arrays here, "ijk" as nibabel arrays. normalization: how intensities get to [0, 1], {"method": "percentile", "low",
    "high"} or {"method": "white-matter", "target"}. passes: default number of passes. pass_scales: factor of the
    working grid's spacing in each pass, the last one for all further passes.
    """

    name: str
    description: str = ""
    dimension: int = 3
    spacing_mm: tuple[float, ...] | None = None
    target_voxels: int | None = None
    shape: tuple[int, ...] | None = None
    orientation: str | None = None
    stride: int = 16
    output: str = "velocity"
    output_scale: float = 2.0
    flow_alignment: str = "centers"
    integration_steps: int = 7
    returns: str = "flow"
    axes: str = "kji"
    normalization: dict = field(default_factory=lambda: {"method": "percentile", "low": 0.5, "high": 99.5})
    passes: int = 1
    pass_scales: tuple[float, ...] = (1.0,)
    architecture: dict = field(default_factory=dict)
    license: str = ""
    citation: str = ""
    training: dict = field(default_factory=dict)
    validation: dict = field(default_factory=dict)
    limits: str = ""

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ModelError(
                    f"The facts of model '{self.name}' say {key} = {getattr(self, key)!r}; it must be one of "
                    f"{', '.join(map(repr, allowed))}."
                )
        if self.normalization.get("method") not in NORMALIZATIONS:
            raise ModelError(
                f"The facts of model '{self.name}' name the normalization {self.normalization.get('method')!r}; "
                f"it must be one of {', '.join(NORMALIZATIONS)}."
            )
        for key in ("spacing_mm", "shape"):
            value = getattr(self, key)
            if value is not None:
                if len(value) != self.dimension or min(value) <= 0:
                    raise ModelError(
                        f"The facts of model '{self.name}' need {self.dimension} positive numbers for {key}, "
                        f"not {value}."
                    )
                object.__setattr__(self, key, tuple(value))
        object.__setattr__(self, "pass_scales", tuple(self.pass_scales))
        if not self.pass_scales or min(self.pass_scales) <= 0:
            raise ModelError(f"The facts of model '{self.name}' need positive numbers for pass_scales.")
        if self.stride < 1 or self.integration_steps < 0 or self.passes < 1 or self.output_scale <= 0:
            raise ModelError(f"The facts of model '{self.name}' have a stride, scale, steps or passes out of range.")

    @property
    def shape_kji(self) -> tuple[int, ...] | None:
        """The locked shape in array order, or None."""
        return self.shape if self.shape is None or self.axes == "kji" else self.shape[::-1]

    def to_json(self) -> str:
        return json.dumps({"format": CARD_FORMAT, "version": CARD_VERSION, **asdict(self)}, indent=2)

    @staticmethod
    def from_dict(facts: Mapping, source: str) -> ModelCard:
        """A card from JSON facts; `source` names the file in messages. Raises ModelError."""
        facts = dict(facts)
        if facts.pop("format", CARD_FORMAT) != CARD_FORMAT or facts.pop("version", CARD_VERSION) != CARD_VERSION:
            raise ModelError(f"The facts in {source} are of another format or a newer version. Update this program.")
        known = {f.name for f in fields(ModelCard)}
        unknown = sorted(set(facts) - known)
        if unknown:
            raise ModelError(f"The facts in {source} have unknown entries: {', '.join(unknown)}.")
        if "name" not in facts:
            raise ModelError(f"The facts in {source} lack the model's name.")
        try:
            return ModelCard(**facts)
        except (TypeError, AttributeError) as error:
            raise ModelError(f"The facts in {source} have an entry of the wrong type: {error}.") from error

    def memory_bytes(self, voxels: int) -> int:
        """Estimated peak of one forward pass over `voxels` network voxels, float32 activations.

        The largest step is either the first level (its features with the convolution's input, at full resolution)
        or, in a network that decodes to full resolution, the last joined skip. Without a known architecture
        64 channels are assumed.
        """
        encoder, decoder = self.architecture.get("encoder"), self.architecture.get("decoder")
        if not encoder or not decoder:
            return voxels * 4 * 64
        channels = 2 + 2 * encoder[0]
        if not self.architecture.get("half_resolution", False):
            channels = max(channels, encoder[0] + 2 * (decoder[len(encoder) - 1] + encoder[0]))
        return voxels * 4 * channels


class Model:
    """A loaded network with its card, on one device. precision: of its convolutions."""

    def __init__(
        self,
        network: torch.jit.ScriptModule,
        card: ModelCard,
        device: str,
        path: Path | None = None,
        precision: str = "float32",
    ) -> None:
        self.network = network
        self.card = card
        self.device = device
        self.path = path
        self.precision = precision

    def flow(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """The raw output for (N, 1, *S) tensors in [0, 1], axes kji: (N, d, *S') in output units.

        Raises ModelError when the network refuses the input or its output is not what the card says.
        """
        import torch

        dimension = self.card.dimension
        swap = self.card.axes == "ijk"
        inputs = [moving, fixed]
        if swap:
            order = (0, 1, *range(dimension + 1, 1, -1))
            inputs = [tensor.permute(order) for tensor in inputs]
        try:
            with torch.inference_mode():
                result = self.network(*inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if "out of memory" in str(error).lower() or "can't allocate" in str(error).lower():
                raise
            raise ModelError(
                f"The model '{self.card.name}' failed on images of {tuple(moving.shape[2:])} voxels: "
                f"{_last_line(error)}"
            ) from error
        if self.card.returns == "moved and field":
            result = self._field_of(result)
        if not isinstance(result, torch.Tensor) or result.dim() != dimension + 2 or result.shape[1] != dimension:
            shape = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise ModelError(
                f"The model '{self.card.name}' returned {shape} where one displacement channel per axis "
                f"(N, {dimension}, sizes) is due: its facts name the wrong dimension, or it is no registration network."
            )
        if not bool(torch.isfinite(result).all()):
            raise ModelError(f"The model '{self.card.name}' returned numbers that are not finite.")
        if swap:
            result = result.permute(order).flip(1)
        return result.clone() if result.is_inference() else result

    def _field_of(self, result: object) -> torch.Tensor:
        """The field of a pair (moved, field) in either order: the one with a channel per axis."""
        import torch

        pair = result if isinstance(result, (tuple, list)) else ()
        dimension = self.card.dimension
        fields_ = [t for t in pair if isinstance(t, torch.Tensor) and t.dim() > 1 and t.shape[1] == dimension]
        if len(pair) < 2 or not fields_:
            raise ModelError(f"The model '{self.card.name}' does not return (moved, field) as its facts say.")
        return fields_[-1]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def models_folder() -> Path:
    """Where the shipped models are: in the wheel, in the source tree, or in Slicer's module resources."""
    library = Path(__file__).resolve().parent
    candidates = [
        library / "shipped_models",
        library.parent.parent / "Resources" / "Models",
        library.parent / "Resources" / "Models",
    ]
    return next((folder for folder in candidates if folder.is_dir()), candidates[1])


def model_names() -> list[str]:
    """Names of the shipped models."""
    return sorted(path.stem for path in models_folder().glob("*.pt"))


def find_model(name_or_path: str | Path) -> Path:
    """The file of a shipped model's name or of a path. Raises ModelError."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = models_folder() / f"{name_or_path}.pt"
    if path.name == str(name_or_path) and shipped.is_file():
        return shipped
    names = ", ".join(model_names()) or "none"
    raise ModelError(f"There is no model file or shipped model '{name_or_path}'. Shipped models: {names}.")


def read_card(path: str | Path) -> ModelCard:
    """The facts of a model file, without loading the network. Raises ModelError."""
    path = Path(path)
    text = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name.endswith(f"/extra/{CARD_FILE}")]
            if not any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist()):
                raise ModelError(
                    f"{path.name} is an archive, but no TorchScript model. Export the network with torch.jit.script "
                    "or torch.jit.trace (a state dict or a checkpoint is not enough)."
                )
            if inside:
                text = archive.read(inside[0]).decode("utf-8", errors="replace")
    else:
        raise ModelError(
            f"{path.name} is no TorchScript model file. Keras weights (.h5) must be converted first: "
            f"voxelmorph models import {path.name} -o model.pt"
            if path.suffix in (".h5", ".hdf5")
            else f"{path.name} is no TorchScript model file, or it is damaged."
        )
    source = path.name
    if text is None:
        beside = path.with_suffix(".json")
        if not beside.is_file():
            raise ModelError(
                f"{path.name} does not say what it expects: it holds no {CARD_FILE}, and there is no {beside.name} "
                "beside it. Write that file (at least name, dimension, spacing_mm, output, output_scale; for a "
                "traced network also shape), or import the model with 'voxelmorph models import'."
            )
        text, source = beside.read_text(encoding="utf-8"), beside.name
    try:
        facts = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"The facts in {source} are not valid JSON: {error}.") from error
    if not isinstance(facts, dict):
        raise ModelError(f"The facts in {source} must be a JSON object.")
    return ModelCard.from_dict(facts, source)


def load_model(name_or_path: str | Path, device: str = "cpu", precision: str = "float32") -> Model:
    """Load a shipped model by name or a model file by path. Raises ModelError with what is wrong with the file.

    precision: "float32", or "auto" for bfloat16 convolutions where the processor multiplies matrices of them and the
    model allows it: a third of the time, displacements that differ by some hundredths of a voxel.
    """
    import torch

    path = find_model(name_or_path)
    card = read_card(path)
    try:
        network = torch.jit.load(str(path), map_location=device)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path.name} cannot be loaded as TorchScript: it is damaged, or made by an incompatible PyTorch "
            f"({_last_line(error)})."
        ) from error
    network.eval()
    reduced = precision == "auto" and device == "cpu" and card.architecture.get("bfloat16", False) and has_bfloat16()
    if device == "cpu":
        # The layout that the CPU's convolutions work in: an eighth less time, and no copies to and fro.
        layout = torch.channels_last_3d if card.dimension == 3 else torch.channels_last
        for name, weight in network.named_parameters():
            if reduced and "flow" not in name.split("."):
                weight.data = weight.data.bfloat16()
            if weight.dim() == card.dimension + 2:
                weight.data = weight.data.contiguous(memory_format=layout)
    return Model(network, card, device, path, "bfloat16" if reduced else "float32")


def has_bfloat16() -> bool:
    """Whether this computer's processor has matrix units for bfloat16 (Intel AMX), which make it the faster choice."""
    import torch

    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported())


def check_model(model: Model) -> dict:
    """Run the network once on a small random pair and compare with its card. Returns what was found.

    Raises ModelError when the output does not fit the facts.
    """
    import torch

    card = model.card
    shape = card.shape_kji or (4 * card.stride,) * card.dimension
    generator = torch.Generator().manual_seed(0)
    moving, fixed = (torch.rand(1, 1, *shape, generator=generator).to(model.device) for _ in range(2))
    flow = model.flow(moving, fixed)
    expected = tuple(math.ceil(n / card.output_scale) for n in shape)
    if card.output_scale != 1 and tuple(flow.shape[2:]) not in (expected, shape):
        raise ModelError(
            f"The model '{card.name}' returned a flow of {tuple(flow.shape[2:])} voxels for {shape}; its output scale "
            f"{card.output_scale:g} lets {expected} expect."
        )
    parameters = sum(p.numel() for p in model.network.parameters())
    return {"input": list(shape), "output": list(flow.shape[2:]), "parameters": parameters}


def save_model(network: torch.nn.Module, card: ModelCard, path: str | Path) -> None:
    """Export a network as a TorchScript model file with its card inside.

    The network is scripted on the CPU in evaluation mode; the file is read back and checked before it takes its
    place, so that no half-written model is left. Raises ModelError or OutputError.
    """
    import copy

    import torch

    path = Path(path)
    scripted = network
    if not isinstance(network, torch.jit.ScriptModule):
        try:
            scripted = torch.jit.script(copy.deepcopy(network).cpu().eval())
        except RuntimeError as error:
            raise ModelError(f"The network cannot be scripted: {_last_line(error)}") from error
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.jit.save(scripted, str(part), _extra_files={CARD_FILE: card.to_json()})
        _drop_debug_records(part)
    except (RuntimeError, OSError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(f"The model could not be written to {path}: {_last_line(error)}") from error
    try:
        check_model(load_model(part))
    except ModelError:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def _drop_debug_records(path: Path) -> None:
    """Take the debugging records out of a TorchScript archive: they hold the paths of the exporting computer."""
    lean = path.with_name(path.name + ".lean")
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(lean, "w", zipfile.ZIP_STORED) as target:
            for record in source.infolist():
                if not record.filename.endswith(".debug_pkl"):
                    target.writestr(record.filename, source.read(record))
        lean.replace(path)
    finally:
        lean.unlink(missing_ok=True)


# --- models from elsewhere ---------------------------------------------------------------------------------


def import_keras(path: str | Path, name: str | None = None) -> tuple[torch.nn.Module, ModelCard]:
    """The published VoxelMorph Keras weights (.h5) as our U-Net and its card. Needs h5py.

    Keras kernels are (x, y, z, in, out) over nibabel arrays (i, j, k); ours are (out, in, k, j, i), and the flow's
    channels turn round with the axes. The weights were trained on 1 mm brains in LIA orientation whose white matter
    lies at FreeSurfer's 110 of 255. Raises ModelError when the file is something else.
    """
    try:
        import h5py
    except ImportError as error:
        raise ModelError("Reading Keras weights needs the package h5py: pip install h5py") from error
    import numpy as np
    import torch

    from .networks import UNet

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no file {path}.")
    try:
        with h5py.File(path, "r") as file:
            config = json.loads(file.attrs["model_config"])["config"]
            layers = {}
            file["model_weights"].visititems(
                lambda key, item: layers.__setitem__(key, np.array(item)) if isinstance(item, h5py.Dataset) else None
            )
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"{path.name} is no Keras file of a VoxelMorph network (VxmDense).") from error
    kernels, biases = {}, {}
    for key, value in layers.items():
        layer = key.split("/")[-2].split("_unet_")[-1]
        layer = "flow" if layer.endswith("flow") else layer
        (kernels if key.endswith("kernel:0") else biases)[layer] = value
    levels = sum(layer.startswith("enc_conv_") for layer in kernels)
    finals = sum(layer.startswith("dec_final_conv_") for layer in kernels)
    names = [f"enc_conv_{n}_0" for n in range(levels)] + [f"dec_conv_{n}_0" for n in reversed(range(levels))]
    names += [f"dec_final_conv_{n}" for n in range(finals)] + ["flow"]
    if levels == 0 or set(names) != set(kernels):
        raise ModelError(f"{path.name} holds a Keras network of another layout than VoxelMorph's U-Net (VxmDense).")
    dimension = kernels["flow"].shape[-1]
    half = bool(config.get("unet_half_res", False))
    steps, downsize = int(config.get("int_steps", 7)), int(config.get("int_downsize", 2))
    if not half and steps > 0 and downsize != 1:
        raise ModelError(
            f"{path.name} resizes a full-resolution flow for integration, which this importer does not know. "
            "Only networks with unet_half_res, or with int_downsize 1, can be imported."
        )
    encoder = [kernels[f"enc_conv_{n}_0"].shape[-1] for n in range(levels)]
    decoder = [kernels[n].shape[-1] for n in names[levels:-1]]
    network = UNet(dimension, encoder, decoder, half_resolution=half)
    modules = [*network.down, *network.up, *network.final]
    convolutions = [module.conv for module in modules] + [network.flow]
    with torch.no_grad():
        for layer, conv in zip(names, convolutions, strict=True):
            kernel = np.transpose(kernels[layer], (dimension + 1, dimension, *range(dimension - 1, -1, -1)))
            bias = biases[layer]
            if layer == "flow":
                kernel, bias = kernel[::-1], bias[::-1]
            if tuple(kernel.shape) != tuple(conv.weight.shape):
                raise ModelError(f"{path.name}: layer {layer} is {kernel.shape}, not {tuple(conv.weight.shape)}.")
            conv.weight.copy_(torch.from_numpy(kernel.copy()))
            conv.bias.copy_(torch.from_numpy(bias.copy()))
    card = ModelCard(
        name=name or path.stem,
        description="Published VoxelMorph network, converted from its Keras weights",
        dimension=dimension,
        spacing_mm=(1.0,) * dimension,
        orientation="LIA" if dimension == 3 else None,
        stride=2**levels,
        output="velocity" if steps > 0 else "displacement",
        output_scale=2.0 if half else 1.0,
        # The Keras layers resize with the corner voxels aligned.
        flow_alignment="corners" if half else "centers",
        integration_steps=steps,
        normalization={"method": "white-matter", "target": KERAS_WHITE_MATTER},
        architecture={"encoder": encoder, "decoder": decoder, "half_resolution": half, "bfloat16": True},
        license="see the publisher of the weights",
        citation="Balakrishnan et al., IEEE TMI 2019; Dalca et al., MedIA 2019",
        training={"source": path.name},
        limits="Skull-stripped, bias-corrected brain images of the contrast that the weights were trained on (T1).",
    )
    return network, card


# FreeSurfer brings white matter to 110; the images were divided by 255.
KERAS_WHITE_MATTER = 110 / 255


def import_foreign(
    path: str | Path, facts: Mapping, name: str | None = None
) -> tuple[torch.jit.ScriptModule, ModelCard]:
    """A foreign TorchScript network with facts from JSON as a network and card that `save_model` writes.

    A network that returns (moved, field) keeps doing so; the card says it. A traced network is locked to the shape
    it was traced with: `facts` must name it as "shape". Raises ModelError when network and facts disagree.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no file {path}.")
    card = ModelCard.from_dict({"name": name or path.stem, **facts}, f"the facts given for {path.name}")
    if name:
        card = replace(card, name=name)
    try:
        network = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be loaded as TorchScript: {_last_line(error)}") from error
    check_model(Model(network, card, "cpu", path))
    return network, card
