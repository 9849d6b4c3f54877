"""Model files: loaded, checked, run and written."""

from __future__ import annotations

import contextlib
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, OutputError
from .archive import Archive
from .card import CARD_FILE, ModelCard, facts_from, read_facts
from .exported import is_exported, read_program, used_records
from .program import check_program
from .shelf import find_model
from .weights import plain_network

if TYPE_CHECKING:
    import torch


class Model:
    """A loaded network with its card, on one device. precision: of its convolutions. trusted: loaded unchecked."""

    def __init__(
        self,
        network: torch.nn.Module,
        card: ModelCard,
        device: str,
        path: Path | None = None,
        precision: str = "float32",
        *,
        trusted: bool = False,
    ) -> None:
        self.network = network
        self.card = card
        self.device = device
        self.path = path
        self.trusted = trusted
        self._precision = precision

    @property
    def precision(self) -> str:
        """Of the convolutions that ran: "float32", "bfloat16", or "int8" for further passes than the first."""
        from .quantised import Quantised

        return "int8" if isinstance(self.network, Quantised) and self.network.used else self._precision

    def begun(self) -> Model:
        """The model for the passes of one registration, of which the first may tell the further ones how to be quick:
        with `load_model`'s precision "auto", their convolutions are of 8-bit integers where that is faster here.
        """
        from .quantised import Quantised

        network = self.network
        if isinstance(network, Quantised):
            network = Quantised(network.whole)
        return Model(network, self.card, self.device, self.path, self._precision, trusted=self.trusted)

    def flow(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """The raw output for (N, 1, *S) tensors in [0, 1], axes kji: (N, d, *S') in output units.

        Raises ModelError when the network refuses the input or its output is not what the card says.
        """
        import torch

        dimension = self.card.dimension
        result = self._run(moving, fixed)
        if self.card.returns == "moved and field":
            result = self._field_of(result)
        if not isinstance(result, torch.Tensor) or result.dim() != dimension + 2 or result.shape[1] != dimension:
            shape = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise ModelError(
                f"The model '{self.card.name}' returned {shape} where one displacement channel per axis "
                f"(N, {dimension}, sizes) is due: its facts name the wrong dimension, or it is no registration network."
            )
        self._check_finite(result)
        if self.card.axes == "ijk":
            result = result.permute(self._turned).flip(1)
        return result.clone() if result.is_inference() else result

    def keypoints(self, moving: torch.Tensor, fixed: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        """The points that a network of keypoints finds, (P, 2 d + 1) as ModelCard says, axes kji.

        moving, fixed, region: (1, 1, *S). Raises ModelError as `flow`, and when there is no point.
        """
        import torch

        dimension = self.card.dimension
        result = self._run(moving, fixed, region)
        width = 2 * dimension + 1
        if not isinstance(result, torch.Tensor) or result.dim() != 3 or result.shape[0::2] != (1, width):
            shape = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise ModelError(
                f"The model '{self.card.name}' returned {shape} where (1, points, {width}) are due: its facts say that "
                "it returns keypoints."
            )
        if result.shape[1] == 0:
            raise ModelError(f"The model '{self.card.name}' found no point to hold on to in the fixed image.")
        self._check_finite(result)
        points = result[0].clone()
        if self.card.axes == "ijk":
            places, steps, spread = points.split((dimension, dimension, 1), 1)
            points = torch.cat([places.flip(1), steps.flip(1), spread], 1)
        return points

    @property
    def _turned(self) -> tuple[int, ...]:
        return 0, 1, *range(self.card.dimension + 1, 1, -1)

    def _run(self, *images: torch.Tensor):
        """What the network returns for images (N, 1, *S), axes kji. Raises ModelError."""
        import torch

        inputs = [tensor.permute(self._turned) for tensor in images] if self.card.axes == "ijk" else list(images)
        try:
            with torch.inference_mode():
                return self.network(*inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if "out of memory" in str(error).lower() or "can't allocate" in str(error).lower():
                raise
            raise ModelError(
                f"The model '{self.card.name}' failed on images of {tuple(images[0].shape[2:])} voxels: "
                f"{last_line(error)}"
            ) from error

    def _check_finite(self, result: torch.Tensor) -> None:
        if not bool(result.isfinite().all()):
            raise ModelError(f"The model '{self.card.name}' returned numbers that are not finite.")

    def _field_of(self, result: object) -> torch.Tensor:
        """The field of a pair (moved, field) in either order: the one with a channel per axis."""
        import torch

        pair = result if isinstance(result, (tuple, list)) else ()
        dimension = self.card.dimension
        fields_ = [t for t in pair if isinstance(t, torch.Tensor) and t.dim() > 1 and t.shape[1] == dimension]
        if len(pair) < 2 or not fields_:
            raise ModelError(f"The model '{self.card.name}' does not return (moved, field) as its facts say.")
        return fields_[-1]


def last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def read_card(path: str | Path) -> ModelCard:
    """The facts of a model file, without loading the network. Raises ModelError."""
    path = Path(path)
    return _card_of(path, _archive_of(path))


def _archive_of(path: Path) -> Archive:
    if path.suffix in (".h5", ".hdf5"):
        raise ModelError(
            f"{path.name} is no TorchScript model file. Keras weights (.h5) must be converted first: "
            f"voxelmorph models import {path.name} -o model.pt"
        )
    archive = Archive(path)
    if not archive.is_program() and not is_exported(archive):
        raise ModelError(
            f"{path.name} is an archive, but no model. Export the network with torch.jit.script, torch.jit.trace or "
            "torch.export (a state dict or a checkpoint is not enough)."
        )
    return archive


def _card_of(path: Path, archive: Archive) -> ModelCard:
    if f"extra/{CARD_FILE}" in archive.names:
        return ModelCard.from_dict(facts_from(archive.read(f"extra/{CARD_FILE}"), path.name), path.name)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ModelError(
            f"{path.name} does not say what it expects: it holds no {CARD_FILE}, and there is no {beside.name} "
            "beside it. Write that file (at least name, dimension, spacing_mm, output, output_scale; for a "
            "traced network also shape), or import the model with 'voxelmorph models import'."
        )
    return ModelCard.from_dict(read_facts(beside), beside.name)


def load_model(
    name_or_path: str | Path, device: str = "cpu", precision: str = "float32", *, trust: bool = False
) -> Model:
    """Load a shipped model by name or a model file by path. Raises ModelError with what is wrong with the file.

    Networks of our own are built here and take only the numbers of the file. Another network is a program: it is run
    when it uses nothing but what networks need (UntrustedModelError otherwise), or when who calls trusts the file.

    precision: "float32", or "auto" for less where the processor is faster with it and the model allows it: bfloat16
    with matrix units for it, a third of the time, displacements that differ by some hundredths of a voxel; else 8-bit
    integers, from the second pass of a registration on, in about half of the time (see quantised).
    """
    import torch

    from .quantised import Quantised, can_be_quantised

    path = find_model(name_or_path)
    archive = _archive_of(path)
    card = _card_of(path, archive)
    network = exported_network(archive, card, trust) if is_exported(archive) else plain_network(archive, card)
    if network is None:
        network = scripted_network(archive, device, trust)
    network.to(device).eval()
    allowed = precision == "auto" and device == "cpu" and card.architecture.get("bfloat16", False)
    reduced = allowed and has_bfloat16()
    if device == "cpu":
        # The layout that the CPU's convolutions work in: an eighth less time, and no copies to and fro.
        layout = torch.channels_last_3d if card.dimension == 3 else torch.channels_last
        for name, weight in network.named_parameters():
            if reduced and weight.dim() > 0 and "flow" not in name.split("."):
                weight.data = weight.data.bfloat16()
            if weight.dim() == card.dimension + 2:
                weight.data = weight.data.contiguous(memory_format=layout)
    if allowed and not reduced and can_be_quantised(network) and has_int8():
        network = Quantised(network)
    return Model(network, card, device, path, "bfloat16" if reduced else "float32", trusted=trust)


def exported_network(archive: Archive, card: ModelCard, trust: bool) -> torch.nn.Module:
    """The network of a file of torch.export, looked through unless it is trusted. Raises ModelError."""
    from .exported_network import ExportedNetwork, TrustedNetwork

    program = read_program(archive, trust)
    if program.refused:
        try:
            return TrustedNetwork(archive.path)
        except Exception as error:
            # PyTorch's reader raises of all kinds.
            raise ModelError(f"{archive.path.name} cannot be loaded by PyTorch ({last_line(error)}).") from error
    network = ExportedNetwork(program, archive)
    if network.sizes is not None and network.sizes[2:] != card.shape:
        raise ModelError(
            f"{archive.path.name} was exported for images of {'x'.join(map(str, network.sizes[2:]))} voxels: its facts "
            f'must say so ("shape": {list(network.sizes[2:])}).'
        )
    return network


def scripted_network(archive: Archive, device: str, trust: bool) -> torch.jit.ScriptModule:
    """The program of a TorchScript file, looked through unless it is trusted. Raises ModelError."""
    import torch

    if not trust:
        check_program(archive)
    try:
        return torch.jit.load(str(archive.path) if trust else archive.rewritten(), map_location=device).eval()
    except (RuntimeError, ValueError, MemoryError) as error:
        raise ModelError(
            f"{archive.path.name} cannot be loaded as TorchScript: it is damaged, or made by an incompatible PyTorch "
            f"({last_line(error)})."
        ) from error


def has_bfloat16() -> bool:
    """Whether this computer's processor has matrix units for bfloat16 (Intel AMX), which make it the faster choice."""
    import torch

    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported())


def has_int8() -> bool:
    """Whether this computer's processor multiplies 8-bit integers faster than float32 (VNNI), and PyTorch knows how."""
    import torch

    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    known = all(hasattr(torch.ops.onednn, name) for name in ("qconv3d_pointwise", "qconv_prepack"))
    return bool(known and supported is not None and supported())


def check_model(model: Model) -> dict:
    """Run the network once on a small random pair and compare with its card. Returns what was found.

    Raises ModelError when the output does not fit the facts.
    """
    import torch

    card = model.card
    shape = card.shape_kji or (card.stride * max(1, min(4, 64 // card.stride)),) * card.dimension
    generator = torch.Generator().manual_seed(0)
    moving, fixed = (torch.rand(1, 1, *shape, generator=generator).to(model.device) for _ in range(2))
    if card.returns == "keypoints":
        output = list(model.keypoints(moving, fixed, torch.ones_like(fixed)).shape)
    else:
        output = _flow_sizes(model, moving, fixed)
    # Those of torch.export are no parameters any more, but numbers.
    weights: list[torch.Tensor] = list(model.network.parameters())
    weights = weights or list(model.network.buffers())
    parameters = sum(weight.numel() for weight in weights)
    return {"input": list(shape), "output": output, "parameters": parameters}


def _flow_sizes(model: Model, moving: torch.Tensor, fixed: torch.Tensor) -> list[int]:
    """The sizes of the flow of a pair. Raises ModelError where they do not fit the facts."""
    card, shape = model.card, tuple(fixed.shape[2:])
    flow = model.flow(moving, fixed)
    expected = output_shape(card, shape)
    if card.output_scale != 1 and tuple(flow.shape[2:]) not in (expected, shape):
        raise ModelError(
            f"The model '{card.name}' returned a flow of {tuple(flow.shape[2:])} voxels for {shape}; its output scale "
            f"{card.output_scale:g} lets {expected} expect."
        )
    return list(flow.shape[2:])


def output_shape(card: ModelCard, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the output's grid for images of `shape`, both in array order."""
    return tuple(math.ceil(size / card.output_scale) for size in shape)


def save_model(network: torch.nn.Module, card: ModelCard, path: str | Path) -> None:
    """Export a network as a TorchScript model file with its card inside; one of torch.export stays such a file.

    The network is scripted on the CPU in evaluation mode; the file is read back and checked before it takes its
    place, so that no half-written model is left. Raises ModelError or OutputError.
    """
    import copy

    import torch

    from .exported_network import ExportedNetwork

    path = Path(path)
    scripted = network
    exported = network if isinstance(network, ExportedNetwork) else None
    if exported is None and not isinstance(network, torch.jit.ScriptModule):
        try:
            scripted = torch.jit.script(copy.deepcopy(network).cpu().eval())
        except RuntimeError as error:
            raise ModelError(f"The network cannot be scripted: {last_line(error)}") from error
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if exported is not None:
            facts = {f"extra/{CARD_FILE}": card.to_json().encode()}
            exported.archive.copy(part, used_records(exported.program), facts)
        else:
            torch.jit.save(scripted, str(part), _extra_files={CARD_FILE: card.to_json()})
            _drop_debug_records(part)
    except (RuntimeError, OSError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        # PyTorch says where in its code, and then why.
        why = last_line(error).rpartition("strerror: ")[2]
        raise OutputError(f"The model could not be written to {path}: {why}") from error
    try:
        # Written by us, or by who was asked about it when it was loaded.
        check_model(load_model(part, trust=True))
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
