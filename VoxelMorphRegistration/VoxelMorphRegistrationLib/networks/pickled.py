"""What a TorchScript file says of its tensors and modules, read without running any of it.

The records data.pkl and constants.pkl are pickles. A pickle is a program, too; PyTorch writes these with some thirty
instructions, and here they only build lists, dictionaries and the descriptions below.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass, field
from typing import Any

from ..errors import ModelError

MOST_INSTRUCTIONS = 500_000
# Bytes of a number.
ITEM_BYTES = {
    **{"ComplexFloat": 8, "Double": 8, "Long": 8, "Float": 4, "Int": 4},
    **{"Half": 2, "BFloat16": 2, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1},
}
_BUILT = {
    *(f"torch.jit._pickle build_{kind}list" for kind in ("int", "tensor", "double", "bool")),
    "torch.jit._pickle restore_type_tag",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "torch device",
    "builtins complex",
}
_STORAGE = re.compile(rf"torch ({'|'.join(ITEM_BYTES)})Storage")


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names: "module name"."""

    text: str


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor: kind such as "Float", the record data/key of `count` elements, and how it lies there, in elements."""

    kind: str
    key: str
    count: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class Object:
    """An object of a class of the archive, with its attributes."""

    kind: str
    state: object = field(default_factory=dict)


@dataclass(eq=False)
class Pickle:
    """What a record holds: its value, the names of the archive's classes in it, and its tensors."""

    value: object = None
    classes: set[str] = field(default_factory=set)
    tensors: list[Tensor] = field(default_factory=list)


class _Refused(Exception):
    pass


def read_pickle(data: bytes, source: str) -> Pickle:
    """What the record holds; source names it in messages.

    Raises ModelError for instructions that PyTorch does not write.
    """
    found = Pickle()
    try:
        found.value = _run(data, found)
    except _Refused as error:
        raise ModelError(f"{source} is no pickle as TorchScript writes it: it has {error}.") from error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(f"{source} is damaged.") from error
    return found


def _run(data: bytes, found: Pickle) -> object:
    stack: list = []
    marks: list[int] = []
    memo: dict[int, object] = {}

    def since_mark() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any  # its type is the instruction's
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > MOST_INSTRUCTIONS:
            raise _Refused("more instructions than a model needs")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                item = stack.pop()
                _kind(stack[-1], list).append(item)
            case "APPENDS":
                items = since_mark()
                _kind(stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _kind(stack[-1], dict)[_key(key)] = value
            case "SETITEMS":
                items = since_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _kind(stack[-1], dict)[_key(key)] = value
            case "BINPUT" | "LONG_BINPUT":
                if argument > MOST_INSTRUCTIONS:
                    raise _Refused("a place far beyond its instructions")
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(Name(_named(argument, found.classes)))
            case "NEWOBJ":
                arguments, kind = stack.pop(), stack.pop()
                if arguments != () or not _kind(kind, Name).text.startswith("__torch__."):
                    raise _Refused("an object of no class of its own")
                stack.append(Object(kind.text))
            case "BUILD":
                state = stack.pop()
                _kind(stack[-1], Object).state = state
            case "BINPERSID":
                stack.append(("storage", *_kind(stack.pop(), tuple)))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_made(_kind(function, Name).text, _kind(arguments, tuple)))
                if isinstance(stack[-1], Tensor):
                    found.tensors.append(stack[-1])
            case name:
                raise _Refused(f"the instruction {name}")
    raise _Refused("no end")


def _kind(value, kind):
    if not isinstance(value, kind):
        raise _Refused(f"a {type(value).__name__} where a {kind.__name__} is due")
    return value


def _key(key):
    if not isinstance(key, (str, int, float, bool)):
        raise _Refused("a key that is no plain value")
    return key


def _named(argument: str, names: set[str]) -> str:
    if argument.startswith(("__torch__.", "__torch__ ")):
        qualified = argument.replace(" ", ".", 1)
        names.add(qualified)
        return qualified
    if argument in _BUILT or _STORAGE.fullmatch(argument):
        return argument
    raise _Refused(f"the name {argument[:80]!r}")


def _made(function: str, arguments: tuple):
    """What a call of one of the known functions makes."""
    match function.split(" ")[-1]:
        case "_rebuild_tensor_v2":
            storage, offset, shape, stride = arguments[:4]
            tag, label, kind, key, _, count = storage
            if (tag, label) != ("storage", "storage"):
                raise _Refused("a tensor without numbers")
            known = _STORAGE.fullmatch(_kind(kind, Name).text)
            sizes = (count, offset, *_kind(shape, tuple), *_kind(stride, tuple))
            if known is None or len(shape) != len(stride) or any(type(n) is not int or n < 0 for n in sizes):
                raise _Refused("a tensor of impossible sizes")
            last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
            if 0 not in shape and last >= count:
                raise _Refused("a tensor that is larger than its numbers")
            return Tensor(known.group(1), str(key), count, offset, shape, stride)
        case "_rebuild_parameter" | "restore_type_tag":
            return arguments[0]
        case "OrderedDict":
            return {}
        case "device" | "complex":
            return arguments
        case _:
            if not function.startswith("torch.jit._pickle "):
                raise _Refused(f"a call of {function[:80]}")
            return list(arguments[0])


def modules_of(root: object) -> dict[str, object]:
    """Tensors and plain values of an object and of those below it, by their dotted names."""
    found: dict[str, object] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", root)]
    while waiting:
        prefix, item = waiting.pop()
        if isinstance(item, Object) and isinstance(item.state, dict):
            if id(item) in seen:
                continue
            seen.add(id(item))
            waiting += [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in item.state.items()]
        else:
            found[prefix] = item
    return found
