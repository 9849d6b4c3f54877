"""What client and server say to each other: one JSON object a line, with protocol version and request id.

To the server: `register` (folder, job), `cancel` and `stop` (keep what there is); the end of its input ends it. From
the server, with id 0: `hello` (pid), `ready` (versions, devices, speed), `heartbeat`, and `error` when it cannot work
at all; with the id of a request: `progress` (stage, fraction, seconds), `log` (text), `preview` (image), and as the
last one of `result` (registration), `error` (kind, text), `cancelled`.

Arrays of more than a few numbers are not part of a message: it names their files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass

import numpy as np

from .. import errors
from ..errors import InputError, VoxelMorphError
from ..fields.displacement import DisplacementField
from ..images.grid import Grid
from ..images.image import Image
from ..registration.report import Report
from ..registration.result import Registration
from ..registration.settings import Settings
from ..results.written import Fields, Product, Stored, Wanted
from ..trust.error_map import ErrorMap

PROTOCOL = 1
# A report with thousands of landmarks stays far below it.
MAX_LINE_BYTES = 8 * 2**20
_INLINE_NUMBERS = 64


class WorkerError(VoxelMorphError):
    """The registration process could not be started, died, hung or said something that is no message."""


class TorchMissingError(WorkerError):
    """PyTorch cannot be imported in the registration process."""


class ProtocolError(Exception):
    """A line is no message of this protocol; the text completes 'it sent ...'."""


class PrintedLine(ProtocolError):
    """A line is no message at all: something that was printed before the process took its output for messages."""


@dataclass(frozen=True, eq=False)
class Job:
    """One call of registration.register; `keywords` are its keyword arguments (images, points, matrices, None).

    fixed, moving: several of each where further images guide it. settings.model names the model; a model file should be
    given with its full path. wanted: then the result is the written.Product of the registration. previews: whether the
    moving image is sent as it improves.
    """

    fixed: Image | tuple[Image, ...]
    moving: Image | tuple[Image, ...]
    settings: Settings = field(default_factory=Settings)
    keywords: dict = field(default_factory=dict)
    wanted: Wanted | None = None
    previews: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """Something else to compute: a method of written.Stored by name ("inverse" or "overview"); its result is sent."""

    stored: Stored
    method: str
    arguments: tuple = ()


_KINDS = (
    Grid,
    Image,
    DisplacementField,
    Settings,
    Report,
    Registration,
    Wanted,
    Fields,
    Product,
    Stored,
    Job,
    Task,
    ErrorMap,
)
_TYPES = {kind.__name__: kind for kind in _KINDS}
_NUMBER = (int, float)
_FIELDS: dict[str, dict] = {
    "register": {"folder": str, "job": dict},
    "cancel": {},
    "stop": {},
    "hello": {"pid": int},
    "ready": {"versions": dict, "devices": list, "speed": dict},
    "heartbeat": {},
    "progress": {"stage": str, "fraction": _NUMBER, "seconds": _NUMBER},
    "log": {"text": str},
    "preview": {"image": dict},
    "result": {"registration": dict},
    "error": {"kind": str, "text": str},
    "cancelled": {},
}
_ERRORS = {
    kind.__name__: kind
    for kind in (*vars(errors).values(), WorkerError, TorchMissingError)
    if isinstance(kind, type) and issubclass(kind, VoxelMorphError)
}


# --- lines -------------------------------------------------------------------------------------------------


def encode(kind: str, request: int = 0, /, **content) -> bytes:
    """A message as a line."""
    return json.dumps({"version": PROTOCOL, "id": request, "type": kind, **content}).encode() + b"\n"


def decode(line: bytes) -> dict:
    """The message of a line; it has "type", "id" and what belongs to its type. Raises ProtocolError, PrintedLine."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PrintedLine(line[:1000].decode(errors="replace").rstrip()) from error
    if not isinstance(message, dict) or "version" not in message:
        raise PrintedLine(line[:1000].decode(errors="replace").rstrip())
    if message["version"] != PROTOCOL:
        raise ProtocolError(f"a message of version {message['version']} instead of {PROTOCOL}")
    expected = _FIELDS.get(str(message.get("type")))
    if expected is None or type(message.get("id")) is not int:
        raise ProtocolError(f"a message of the unknown type {message.get('type')!r}")
    for name, kinds in expected.items():
        if not isinstance(message.get(name), kinds):
            raise ProtocolError(f"a message '{message['type']}' without a proper '{name}'")
    return message


def error_content(error: VoxelMorphError) -> dict:
    """What an `error` message says."""
    return {"kind": type(error).__name__, "text": str(error)}


def error_from(message: dict) -> VoxelMorphError:
    """The error of an `error` message. Raises ProtocolError."""
    if message["kind"] not in _ERRORS:
        raise ProtocolError(f"an error of the unknown kind {message['kind']!r}")
    return _ERRORS[message["kind"]](message["text"])


# --- values ------------------------------------------------------------------------------------------------


def pack(value, arrays: dict[str, np.ndarray], prefix: str):
    """A job, a registration or a part of one as JSON; its arrays are put into `arrays` under their file names.

    An array that occurs twice gets one file, so that the other side knows it for the same. prefix: of the names.
    Raises InputError for arrays that do not hold numbers.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _pack_array(value, arrays, prefix)
    if isinstance(value, list):
        return [pack(item, arrays, prefix) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [pack(item, arrays, prefix) for item in value]}
    if isinstance(value, dict):
        # As pairs: the keys of JSON are strings, those of reports also label values.
        return {"dict": [[pack(key, arrays, prefix), pack(item, arrays, prefix)] for key, item in value.items()]}
    if is_dataclass(value) and type(value).__name__ in _TYPES:
        content = {f.name: pack(getattr(value, f.name), arrays, prefix) for f in fields(value)}
        return {"type": type(value).__name__, "fields": content}
    raise TypeError(f"A {type(value).__name__} cannot be sent to the worker or back.")


def _pack_array(array: np.ndarray, arrays: dict[str, np.ndarray], prefix: str) -> dict:
    if array.dtype.kind not in "biuf":
        raise InputError(f"An image or list of points holds {array.dtype} values. Give real numbers.")
    if array.size <= _INLINE_NUMBERS:
        return {"numbers": array.ravel().tolist(), "dtype": array.dtype.str, "shape": list(array.shape)}
    name = next((name for name, known in arrays.items() if known is array), f"{prefix}-{len(arrays)}.npy")
    arrays[name] = array
    return {"npy": name}


def unpack(value, load: Callable[[str], np.ndarray]):
    """The value that `pack` made JSON of; load(file name) gives an array. Raises ProtocolError."""
    try:
        return _unpack(value, load)
    except (KeyError, TypeError, ValueError, VoxelMorphError) as error:
        raise ProtocolError(f"values that do not fit together ({error})") from error


def _unpack(value, load):
    if isinstance(value, list):
        return [_unpack(item, load) for item in value]
    if not isinstance(value, dict):
        return value
    if "npy" in value:
        return load(value["npy"])
    if "numbers" in value:
        return np.array(value["numbers"], value["dtype"]).reshape(value["shape"])
    if "tuple" in value:
        return tuple(_unpack(item, load) for item in value["tuple"])
    if "dict" in value:
        return {_unpack(key, load): _unpack(item, load) for key, item in value["dict"]}
    return _TYPES[value["type"]](**{name: _unpack(item, load) for name, item in value["fields"].items()})


def array_names(value) -> list[str]:
    """The files that a packed value names, each once. Raises ProtocolError when one is not a plain name."""
    names: dict[str, None] = {}
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            if "npy" in item:
                names[item["npy"]] = None
            stack.extend(item.values())
    for name in names:
        if not isinstance(name, str) or not name.endswith(".npy") or set(name) & set("/\\:"):
            raise ProtocolError(f"the file name {name!r}")
    return list(names)
