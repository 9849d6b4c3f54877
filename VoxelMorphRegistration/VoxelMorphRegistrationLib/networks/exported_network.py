"""A network of torch.export at work: its calls, one after the other."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from .archive import Archive
from .exported import Call, Program, Weight, reach

# The codes of torch/_export/serde/schema.py.
_TYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16},
    **{7: torch.float32, 8: torch.float64, 10: torch.complex64, 11: torch.complex128, 12: torch.bool},
    13: torch.bfloat16,
}
_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7


class ExportedNetwork(torch.nn.Module):
    """forward(moving, fixed) as the program says. sizes: of the images it is locked to, or None.

    Raises ModelError for weights that are cut short and operators that this PyTorch does not have.
    """

    def __init__(self, program: Program, archive: Archive) -> None:
        super().__init__()
        self.source, self.program = archive.path.name, program
        self.archive = archive
        self._functions = [self._function(call) for call in program.calls]
        self._names = {}
        for number, (name, weight) in enumerate(program.weights.items()):
            self._names[name] = f"weight_{number}"
            self.register_buffer(self._names[name], self._tensor(archive, weight))
        self.sizes = next((sizes for _, sizes in program.images if sizes is not None), None)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        values: dict[str, Any] = dict(self.program.constants)
        for (name, sizes), image in zip(self.program.images, (moving, fixed), strict=True):
            if sizes is not None and tuple(image.shape) != sizes:
                raise ModelError(
                    f"{self.source} was exported for images of {_times(sizes)} and got {_times(image.shape)}: its "
                    f'facts must lock it to that shape ("shape": {list(sizes[2:])}).'
                )
            values[name] = image
        values.update((name, getattr(self, buffer)) for name, buffer in self._names.items())
        try:
            for call, (function, by_name) in zip(self.program.calls, self._functions, strict=True):
                positional, keywords = [], {}
                for name, keyword, kind, value in call.inputs:
                    argument = _argument(kind, value, values, moving.device)
                    if keyword or name in by_name:
                        keywords[name] = argument
                    else:
                        positional.append(argument)
                _keep(call, function(*positional, **keywords), values)
            results = tuple(values[name] for name in self.program.results)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ModelError(
                f"{self.source} is damaged: its calls do not fit together ({type(error).__name__}: {str(error)[:200]})."
            ) from error
        return results[0] if len(results) == 1 else results

    def _function(self, call: Call):
        """What a call calls, and the names of its arguments that have no place."""
        if call.target[0] == "_operator":
            function = getattr(operator, call.target[1])
            return (function if call.target[1] == "getitem" else _on_numbers(function)), ()
        try:
            packet = getattr(getattr(torch.ops, call.target[0]), call.target[1])
            overload = getattr(packet, call.target[2])
            names = {argument.name for argument in overload._schema.arguments if argument.kwarg_only}
        except (AttributeError, RuntimeError) as error:
            raise ModelError(
                f"{self.source} uses {'.'.join(call.target)[:80]}, which PyTorch {torch.__version__} does not have."
            ) from error
        return overload, names

    def _tensor(self, archive: Archive, weight: Weight) -> torch.Tensor:
        kind = _TYPES.get(weight.kind)
        if kind is None:
            raise ModelError(f"{self.source} holds numbers of a type that is not known here ({weight.kind}).")
        if 0 in weight.shape:
            return torch.empty(weight.shape, dtype=kind)
        archive.check_size(weight.name, reach(weight) * kind.itemsize)
        data = bytearray(archive.read(weight.name))
        del data[len(data) // kind.itemsize * kind.itemsize :]
        flat = torch.frombuffer(data, dtype=kind)
        tensor = torch.as_strided(flat, weight.shape, weight.stride, weight.offset).contiguous()
        if kind.is_floating_point and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{self.source} holds weights that are no finite numbers.")
        return tensor


class TrustedNetwork(torch.nn.Module):
    """A network as PyTorch's own reader makes it, of a file that is trusted; it refuses to be set to evaluation."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._whole = (torch.export.load(path).module(),)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        return self._whole[0](moving, fixed)

    def _apply(self, fn, recurse=True):
        self._whole[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _on_numbers(function):
    """The function for sizes alone: lists and texts could be multiplied beyond any memory."""

    def checked(*numbers):
        if not all(type(number) in (int, float, bool) and abs(number) < 2**63 for number in numbers):
            raise ValueError("sizes that are none")
        return function(*numbers)

    return checked


def _argument(kind: str, value: Any, values: dict[str, Any], device: torch.device) -> Any:
    match kind:
        case "as_tensor" | "as_sym_int" | "as_sym_bool" | "as_sym_float" | "as_optional_tensor":
            return values[value[1]] if value[0] == "name" else value[1]
        case "as_tensors" | "as_sym_ints" | "as_sym_bools" | "as_sym_floats" | "as_optional_tensors":
            return [values[inner] if what == "name" else inner for what, inner in value]
        case "as_scalar_type":
            return _TYPES[value]
        case "as_memory_format":
            return _FORMATS[value]
        case "as_layout":
            if value != _STRIDED:
                raise RuntimeError("a layout that networks do not have")
            return torch.strided
        case "as_device":
            # Where it runs now, not where it was exported.
            return device
        case _:
            return value


def _keep(call: Call, result: Any, values: dict[str, Any]) -> None:
    """Put the results of a call under their names."""
    if len(call.outputs) == 1:
        result = (result,)
    for name, value in zip(call.outputs, result, strict=False):
        if isinstance(name, tuple):
            values.update(zip(name, value, strict=True))
        elif name is not None:
            values[name] = value


def _times(sizes) -> str:
    return " x ".join(map(str, sizes))
