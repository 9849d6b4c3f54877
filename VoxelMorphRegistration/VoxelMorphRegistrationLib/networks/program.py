"""The code of a TorchScript file, looked through before anything of it runs.

A TorchScript file is a program, and PyTorch has operators that write files: a file of 2.7 KB overwrote one of its
choice while it was loaded. The code lies in the archive as text in a subset of Python. Nothing in it can reach an
operator but by the names `torch` and `ops` or as an attribute of a value, so it is enough to look at each name: what
follows a dot is an operator of the list, or something that the archive itself declares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import ModelError, UntrustedModelError
from .archive import Archive
from .operators import OPERATORS, PRIMITIVES
from .pickled import ITEM_BYTES, read_pickle

_TOKEN = re.compile(
    r'(?P<space>[ \n\t]+)|(?P<string>"(?:[^"\\\n]|\\[^\n])*")'
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?j?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>[-+*/%@&|^~<>=!:,.()\[\]{}])"
)
_DEFINED = re.compile(r"^(?:class|def) ([A-Za-z_]\w*)|^ +def ([A-Za-z_]\w*)|^  ([A-Za-z_]\w*) [:=]", re.MULTILINE)
_TOP = re.compile(r"^(?:class|def) ([A-Za-z_]\w*)", re.MULTILINE)
# Names of values whose attributes are no operators.
_ROOTS = ("torch", "ops", "CONSTANTS")
# They start other threads; no network needs them.
_BUILTINS_REFUSED = frozenset({"fork", "awaitable"})


def check_program(archive: Archive) -> None:
    """Raise UntrustedModelError for operators that networks do not need, ModelError for what is no TorchScript."""
    source = archive.path.name
    code = archive.code()
    # Under torch.classes PyTorch looks for classes of its own, whatever the archive holds.
    qualified = {
        f"{module}.{name}"
        for module, text in code.items()
        if not f"{module}.".startswith("__torch__.torch.classes.")
        for name in _TOP.findall(text)
    }
    declared = {name for text in code.values() for found in _DEFINED.findall(text) for name in found if name}
    refused: dict[str, None] = {}
    for name in ("data.pkl", "constants.pkl"):
        found = read_pickle(archive.read(name), f"{name} of {source}")
        refused.update(dict.fromkeys(sorted(found.classes - qualified)))
        for tensor in found.tensors:
            archive.check_size(f"{name.removesuffix('.pkl')}/{tensor.key}", tensor.count * ITEM_BYTES[tensor.kind])
    for module, text in code.items():
        refused.update(dict.fromkeys(_strangers(list(_tokens(text, f"{module} of {source}")), qualified, declared)))
    if refused:
        names = list(refused)
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise UntrustedModelError(
            f"{source} is a program that uses {listed}, which registration networks do not need; such a program could "
            f"read or overwrite files. It was not run.{UntrustedModelError.HOW}"
        )


def _tokens(text: str, source: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each token. What PyTorch never writes (comments, other quotes) might be read in two ways."""
    position = 0
    if '"""' in text:
        raise ModelError(f"The code {source} is not as TorchScript writes it: a string of several lines.")
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ModelError(f"The code {source} is not as TorchScript writes it: {text[position : position + 20]!r}.")
        position = found.end()
        if found.lastgroup == "number" and re.match(r"\w", text[position : position + 1]):
            raise ModelError(
                f"The code {source} is not as TorchScript writes it: {text[found.start() : position + 1]!r}."
            )
        if found.lastgroup != "space":
            yield str(found.lastgroup), found.group()


def _strangers(tokens: list[tuple[str, str]], qualified: set[str], declared: set[str]) -> Iterator[str]:
    """Names that are neither operators of the list nor declared in the archive."""
    end = ("end", "")
    position = 0
    while position < len(tokens):
        kind, text = tokens[position]
        before = tokens[position - 1] if position else end
        if kind != "name":
            position += 1
            continue
        chain, after = _chain(tokens, position)
        position = after
        if before == ("sign", "."):
            yield from _not_known(chain, declared)
        elif text == "__torch__":
            own = next((n for n in range(len(chain), 1, -1) if ".".join(chain[:n]) in qualified), 0)
            if not own:
                yield ".".join(chain)
            else:
                yield from _not_known([name for name in chain[own:] if name != "__new__"], declared)
        elif text == "torch":
            if len(chain) < 2 or chain[1] not in OPERATORS:
                yield ".".join(chain[:2])
            yield from _not_known(chain[2:], declared)
        elif text == "ops":
            if chain[1:2] != ["prim"] or len(chain) < 3 or chain[2] not in PRIMITIVES:
                yield ".".join(chain[:3])
            yield from _not_known(chain[3:], declared)
        elif text == "CONSTANTS":
            if len(chain) < 2 or not re.fullmatch(r"c\d+", chain[1]):
                yield ".".join(chain[:2])
            yield from _not_known(chain[2:], declared)
        elif text in _BUILTINS_REFUSED:
            yield text
        elif text == "getattr":
            yield from _attribute(tokens[after:], declared)
        else:
            yield from _not_known(chain[1:], declared)


def _chain(tokens: list[tuple[str, str]], position: int) -> tuple[list[str], int]:
    """The dotted names from a position on, and the position after them."""
    chain = [tokens[position][1]]
    position += 1
    while tokens[position : position + 1] == [("sign", ".")] and tokens[position + 1 : position + 2]:
        kind, text = tokens[position + 1]
        if kind != "name":
            break
        chain.append(text)
        position += 2
    return chain, position


def _attribute(tokens: list[tuple[str, str]], declared: set[str]) -> Iterator[str]:
    """getattr(name, "attribute"), the only form that PyTorch writes."""
    kinds = [kind for kind, _ in tokens[:5]]
    texts = [text for _, text in tokens[:5]]
    usual = kinds == ["sign", "name", "sign", "string", "sign"] and (texts[0], texts[2], texts[4]) == ("(", ",", ")")
    if not usual or texts[1] in (*_ROOTS, "__torch__") or not re.fullmatch(r'"\w+"', texts[3]):
        yield "getattr"
    elif not re.fullmatch(r'"\d+"', texts[3]):
        yield from _not_known([texts[3].strip('"')], declared)


def _not_known(names: list[str], declared: set[str]) -> Iterator[str]:
    for name in names:
        if name in OPERATORS or name in PRIMITIVES:
            continue
        # A value has its class's attributes and, by name, every operator.
        if name not in declared or _is_operator(name):
            yield name


def _is_operator(name: str) -> bool:
    import torch

    schemas = torch._C._jit_get_schemas_for_operator
    return bool(schemas(f"aten::{name}") or schemas(f"prim::{name}"))
