"""The program in a file of torch.export (.pt2), read and looked through without running any of it.

PyTorch's own reader unpickles what a file asks it to and evaluates texts in it. Here only JSON and plain numbers are
read: the graph is a list of calls of operators by name, checked against the list of what networks need; weights are
numbers with sizes and strides. Source: torch/_export/serde/schema.py of PyTorch 2.13, schema version 8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError, UntrustedModelError
from .archive import Archive
from .operators import TENSOR_OPERATORS

MODEL_FOLDER = "models/"
_SCHEMA_VERSION = 8
# The largest networks of the field have some 5,000 calls and 3,000 tensors.
_MOST_NODES, _MOST_TENSORS, _MOST_DIMENSIONS = 100_000, 20_000, 10
# Only exports have these: checks that change nothing, and copies.
_OF_EXPORTS = {"_assert_tensor_metadata", "_to_copy", "_unsafe_view", "lift_fresh_copy", "sym_stride"}
# On sizes, in exports for any shape.
_ON_SIZES = {"getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge"}
# Values that are written as they are, by the kind of an argument, and names of tensors and sizes.
PLAIN = {"as_int": int, "as_bool": bool, "as_float": float, "as_string": str}
PLAIN_LISTS = {"as_ints": int, "as_bools": bool, "as_floats": float, "as_strings": str}
CODES = {"as_scalar_type": 40, "as_memory_format": 5, "as_layout": 8}
NAMED = {"as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"}
NAMED_LISTS = {"as_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats", "as_optional_tensors"}


@dataclass(frozen=True)
class Weight:
    """Numbers of the record `name`: the code of their type, how they lie there, in elements."""

    name: str
    kind: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Call:
    """target: ("aten", operator, overload) or ("_operator", name). inputs: (name, is a keyword, kind, value)."""

    target: tuple[str, ...]
    inputs: tuple[tuple[str, bool, str, Any], ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True)
class Program:
    """images: the names of its two inputs and their sizes, None where any will do. results: names of its outputs.

    refused: what of it networks do not need.
    """

    images: tuple[tuple[str, tuple[int, ...] | None], ...]
    weights: dict[str, Weight]
    constants: dict[str, Any]
    calls: tuple[Call, ...]
    results: tuple[str, ...]
    refused: tuple[str, ...]


def is_exported(archive: Archive) -> bool:
    return any(name.startswith(MODEL_FOLDER) and name.endswith(".json") for name in archive.names)


def read_program(archive: Archive, trust: bool = False) -> Program:
    """The program of a file. Raises ModelError, and UntrustedModelError for operators that networks do not need."""
    source = archive.path.name
    try:
        program = _program(archive)
    except ModelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise ModelError(f"{source} is no network as torch.export writes it, or it is damaged.") from error
    if program.refused and not trust:
        listed = ", ".join(program.refused[:5])
        more = f" and {len(program.refused) - 5} more" if len(program.refused) > 5 else ""
        raise UntrustedModelError(
            f"{source} is a program that uses {listed}{more}, which registration networks do not need; such a program "
            f"could read or overwrite files. It was not run.{UntrustedModelError.HOW}"
        )
    return program


def _program(archive: Archive) -> Program:
    models = [name for name in archive.names if name.startswith(MODEL_FOLDER) and name.endswith(".json")]
    if len(models) != 1:
        raise ModelError(f"{archive.path.name} holds {len(models)} exported networks. Give a file with one.")
    title = models[0].removeprefix(MODEL_FOLDER).removesuffix(".json")
    content = json.loads(archive.read(models[0]))
    version = content["schema_version"]["major"]
    if version != _SCHEMA_VERSION:
        raise ModelError(
            f"{archive.path.name} was written by torch.export in version {str(version)[:20]} of its format; "
            f"{_SCHEMA_VERSION} is known here. Export it again with PyTorch 2.8 or later, or as TorchScript."
        )
    graph, signature = content["graph_module"]["graph"], content["graph_module"]["signature"]
    stored = {**_stored(archive, f"data/weights/{title}_weights_config.json", "data/weights/")}
    stored.update(_stored(archive, f"data/constants/{title}_constants_config.json", "data/constants/"))
    images, weights, constants = [], {}, {}
    for spec in signature["input_specs"]:
        kind, value = _only(spec)
        match kind:
            case "user_input":
                what, name = _only(value["arg"])
                if what != "as_tensor":
                    raise ModelError(f"{archive.path.name} takes more than two images; the others would be missing.")
                images.append((_text(name["name"]), _sizes(graph["tensor_values"][name["name"]])))
            case "parameter" | "buffer" | "tensor_constant":
                known = {"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind, "tensor_constant_name")
                weights[_text(value["arg"]["name"])] = stored[value[known]]
            case "constant_input":
                constants[_text(value["name"])] = _plain(*_only(value["value"]))
            case _:
                raise ModelError(f"{archive.path.name} holds a {kind[:40]}, which is no part of a network known here.")
    if len(images) != 2:
        raise ModelError(f"{archive.path.name} takes {len(images)} images; a registration network takes two.")
    refused: dict[str, None] = {}
    if not 0 < len(graph["nodes"]) <= _MOST_NODES:
        raise ValueError("no calls, or too many")
    calls = tuple(_call(node, refused) for node in graph["nodes"])
    results = [
        _text(_only(value["arg"])[1]["name"])
        for kind, value in map(_only, signature["output_specs"])
        if kind == "user_output"
    ]
    return Program(tuple(images), weights, constants, calls, tuple(results), tuple(refused))


def _call(node: dict, refused: dict[str, None]) -> Call:
    target = _text(node["target"])
    parts = target.split(".")
    if parts[:2] == ["torch", "ops"] and len(parts) == 5:
        found = tuple(parts[2:])
        if parts[2] != "aten" or parts[3] not in TENSOR_OPERATORS | _OF_EXPORTS:
            refused[".".join(parts[2:4])] = None
    else:
        found = tuple(parts)
        if len(parts) != 2 or parts[0] != "_operator" or parts[1] not in _ON_SIZES:
            refused[target[:80]] = None
    inputs = tuple(_input(one, refused) for one in node["inputs"])
    return Call(found, inputs, tuple(_output(one) for one in node["outputs"]))


def _input(one: dict, refused: dict[str, None]) -> tuple[str, bool, str, Any]:
    kind, value = _only(one["arg"])
    name, keyword = _text(one["name"]), one.get("kind") == 2
    if kind in NAMED:
        return name, keyword, kind, _name_or_value(value)
    if kind in NAMED_LISTS:
        return name, keyword, kind, tuple(_name_or_value(part) for part in _list(value))
    if kind in CODES:
        if type(value) is not int or not 0 <= value < CODES[kind]:
            raise ValueError("a code that there is not")
        return name, keyword, kind, value
    if kind in ("as_none", "as_device"):
        return name, keyword, kind, None
    if kind in PLAIN or kind in PLAIN_LISTS:
        return name, keyword, kind, _plain(kind, value)
    # Graphs within, operators as values, objects of classes.
    refused[kind[:40]] = None
    return name, keyword, kind, None


def _name_or_value(value: dict) -> tuple[str, Any]:
    """("name", of a tensor or size), or ("value", as it is)."""
    if set(value) == {"name"}:
        return "name", _text(value["name"])
    kind, inner = _only(value)
    if kind == "as_name":
        return "name", _text(inner)
    if kind == "as_tensor":
        return "name", _text(inner["name"])
    return "value", None if kind == "as_none" else _plain(kind, inner)


def _output(one: dict) -> Any:
    """The name of an output, or the names in a list of them, None where it is not used."""
    kind, value = _only(one)
    if kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        found, name = _name_or_value(value)
        if found != "name":
            raise ValueError("an output without a name")
        return name
    if kind == "as_tensors":
        return tuple(_text(part["name"]) for part in _list(value))
    if kind == "as_none":
        return None
    raise ValueError("an output of another kind")


def _stored(archive: Archive, config: str, folder: str) -> dict[str, Weight]:
    """The weights that a record lists, by their qualified names. Raises ModelError for pickles."""
    if config not in archive.names:
        return {}
    entries = json.loads(archive.read(config))["config"]
    if len(entries) > _MOST_TENSORS:
        raise ValueError("too many tensors")
    found = {}
    for name, entry in entries.items():
        path = _text(entry["path_name"])
        if entry["use_pickle"] or entry["tensor_meta"] is None or f"{folder}{path}" not in archive.names:
            raise ModelError(
                f"{archive.path.name} holds '{name[:80]}' as a pickle, which is a program; it was not read. Export the "
                "network with plain tensors."
            )
        meta = entry["tensor_meta"]
        shape, stride = (tuple(_whole(_only(n)) for n in _list(meta[key])) for key in ("sizes", "strides"))
        offset = _whole(_only(meta["storage_offset"]))
        if len(shape) != len(stride) or len(shape) > _MOST_DIMENSIONS:
            raise ValueError("a tensor of impossible sizes")
        found[name] = Weight(f"{folder}{path}", int(meta["dtype"]), shape, stride, offset)
    return found


def reach(weight: Weight) -> int:
    """How many elements of its record a tensor needs."""
    if 0 in weight.shape:
        return 0
    return weight.offset + 1 + sum((n - 1) * step for n, step in zip(weight.shape, weight.stride, strict=True))


def _sizes(meta: dict) -> tuple[int, ...] | None:
    """Of an image; None where they may be any."""
    sizes = [_only(one) for one in _list(meta["sizes"])]
    return tuple(map(_whole, sizes)) if all(kind == "as_int" for kind, _ in sizes) else None


def _whole(pair: tuple[str, Any]) -> int:
    kind, value = pair
    if kind != "as_int" or type(value) is not int or not 0 <= value < 2**40:
        raise ValueError("no size")
    return value


def _plain(kind: str, value: Any) -> Any:
    if kind == "as_none":
        return None
    if kind in PLAIN_LISTS:
        return [_one_plain(PLAIN_LISTS[kind], part) for part in _list(value)]
    return _one_plain(PLAIN[kind], value)


def _one_plain(kind: type, value: Any) -> Any:
    if kind is float:
        # JSON has no infinity: it is written as a text.
        number = float(value) if value in ("Infinity", "-Infinity", "NaN") or type(value) in (int, float) else None
        if number is None:
            raise ValueError("no number")
        return number
    if type(value) is not kind or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        raise ValueError("a value of another kind")
    return value


def _only(value: dict) -> tuple[str, Any]:
    """The one entry of a union."""
    ((kind, inner),) = value.items()
    return kind, inner


def _list(value: Any) -> list:
    if type(value) is not list:
        raise ValueError("no list")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("no text")
    return value


def used_records(program: Program) -> Iterator[str]:
    """The records with the program's numbers."""
    yield from dict.fromkeys(weight.name for weight in program.weights.values() if math.prod(weight.shape))
