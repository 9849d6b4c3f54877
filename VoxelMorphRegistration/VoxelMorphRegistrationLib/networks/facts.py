"""The facts of a model's card, each checked by its kind and range: a card comes from somebody else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard

from ..errors import ModelError

if TYPE_CHECKING:
    from .card import ModelCard

CHOICES: dict[str, tuple] = {
    "dimension": (2, 3),
    "output": ("velocity", "displacement"),
    "flow_alignment": ("centers", "corners"),
    "returns": ("flow", "moved and field", "keypoints"),
    "axes": ("kji", "ijk"),
}
NORMALIZATIONS = ("percentile", "white-matter")
# As the setting `passes`; more do not help, and each costs as much as the first.
MOST_PASSES = 10
# 512^3 voxels: what a network locked to one shape can have on any machine.
MOST_LOCKED_VOXELS = 2**27
# Networks of the field halve their grid four to six times, and have up to some 2,000 features.
MOST_STRIDE, MOST_LEVELS, MOST_FEATURES = 128, 20, 8192
# Their dense fit takes the third power of the points; a heatmap has positions^d places.
MOST_KEYPOINTS, MOST_POSITIONS = 8192, 31
# Deeper than any card; JSON of a thousand levels ends a reader.
_MOST_DEPTH, _MOST_VALUES, _MOST_TEXT = 12, 20_000, 20_000


def check_facts(card: ModelCard) -> None:
    """Raise ModelError for the first fact of the wrong kind or out of range."""
    name = card.name if isinstance(card.name, str) else "?"
    for key, (fits, wanted) in _RULES.items():
        value = getattr(card, key)
        if not fits(value):
            _refuse(name, key, value, wanted)
    sized = f"None or {card.dimension} positive numbers"
    for key in ("spacing_mm", "shape"):
        value = getattr(card, key)
        if value is not None and len(value) != card.dimension:
            _refuse(name, key, value, sized)
    if card.shape is not None and math.prod(card.shape) > MOST_LOCKED_VOXELS:
        _refuse(name, "shape", card.shape, f"sizes of at most {MOST_LOCKED_VOXELS:,} voxels")
    _check_normalization(name, card.normalization)
    _check_architecture(name, card.architecture)
    if card.returns == "keypoints" and card.output != "displacement":
        _refuse(name, "output", card.output, "'displacement' where keypoints are returned")


def _refuse(model: str, key: str, value: object, wanted: str) -> None:
    raise ModelError(
        f"The facts of model '{model[:60]}' say {key} = {_short(value)}, which is of the wrong type or out of range: "
        f"it must be {wanted}."
    )


def _short(value: object) -> str:
    # Not repr of the whole: it may be of any size.
    if isinstance(value, (list, tuple, dict)) and len(value) > 12:
        return f"a {type(value).__name__} of {len(value)} entries"
    text = "a number of many digits" if isinstance(value, int) and abs(value) > 10**30 else repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


def is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object, low: float, high: float) -> TypeGuard[float]:
    """Finite, since NaN lies between no two numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _choice(key: str) -> tuple[Callable[[object], bool], str]:
    allowed = CHOICES[key]

    def fits(value: object) -> bool:
        return type(value) in (int, str) and value in allowed

    return fits, f"one of {', '.join(map(repr, allowed))}"


def _whole(low: int, high: int, none: bool = False) -> tuple[Callable[[object], bool], str]:
    def fits(value: object) -> bool:
        return (none and value is None) or is_whole(value, low, high)

    return fits, f"{'None or ' if none else ''}a whole number from {low} to {high:,}"


def _number(low: float, high: float) -> tuple[Callable[[object], bool], str]:
    return lambda value: is_number(value, low, high), f"a number from {low:g} to {high:g}"


def _list(fits: Callable[[object], bool], least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, (list, tuple)) and least <= len(value) <= most and all(map(fits, value))


def _text(most: int, least: int = 0) -> tuple[Callable[[object], bool], str]:
    def fits(value: object) -> bool:
        return isinstance(value, str) and least <= len(value) <= most and "\0" not in value

    return fits, f"a text of {least} to {most:,} characters"


def _is_orientation(value: object) -> bool:
    pairs = ("LR", "PA", "SI")
    return value is None or (
        isinstance(value, str) and len(value) == 3 and all(sum(c in pair for c in value) == 1 for pair in pairs)
    )


def _is_plain(value: object) -> bool:
    """Whether it is an object of JSON of bounded size and depth."""
    if not isinstance(value, dict):
        return False
    count, waiting = 0, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        count += 1
        if depth > _MOST_DEPTH or count > _MOST_VALUES:
            return False
        if isinstance(item, dict):
            if not all(isinstance(key, (str, int)) for key in item):
                return False
            waiting += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            if len(item) > _MOST_TEXT:
                return False
        elif item is not None and not isinstance(item, (bool, int, float)):
            return False
    return True


_OBJECT = _is_plain, "a JSON object of moderate size"
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": _text(200, 1),
    **{key: _choice(key) for key in CHOICES},
    "spacing_mm": (
        lambda value: value is None or _list(lambda n: is_number(n, 1e-6, 1e6), 2, 3)(value),
        "None or positive numbers",
    ),
    "target_voxels": _whole(1, 2**31, none=True),
    "shape": (
        lambda value: value is None or _list(lambda n: is_whole(n, 1, 2**16), 2, 3)(value),
        "None or whole positive numbers",
    ),
    "orientation": (_is_orientation, "None or one letter of each pair L/R, P/A, I/S"),
    "stride": _whole(1, MOST_STRIDE),
    "output_scale": _number(1 / 64, 64),
    "integration_steps": _whole(0, 20),
    "passes": _whole(1, MOST_PASSES),
    "pass_scales": (
        _list(lambda n: is_number(n, 0.25, 16), 1, MOST_PASSES),
        f"1 to {MOST_PASSES} numbers from 0.25 to 16",
    ),
    "normalization": _OBJECT,
    "architecture": _OBJECT,
    "training": _OBJECT,
    "validation": _OBJECT,
    "description": _text(2000),
    "license": _text(2000),
    "citation": _text(_MOST_TEXT),
    "limits": _text(_MOST_TEXT),
}


def _check_normalization(model: str, facts: dict) -> None:
    method = facts.get("method")
    if not isinstance(method, str) or method not in NORMALIZATIONS:
        raise ModelError(
            f"The facts of model '{model[:60]}' name the normalization {_short(method)}; "
            f"it must be one of {', '.join(NORMALIZATIONS)}."
        )
    if method == "white-matter":
        if not is_number(facts.get("target"), 1e-3, 1):
            _refuse(model, "the target of normalization", facts.get("target"), "a number from 0.001 to 1")
    else:
        low, high = facts.get("low"), facts.get("high")
        if not (is_number(low, 0, 100) and is_number(high, 0, 100) and low < high):
            _refuse(model, "low and high of normalization", [low, high], "two percentiles from 0 to 100")


def _check_architecture(model: str, facts: dict) -> None:
    features = _list(lambda n: is_whole(n, 1, MOST_FEATURES), 1, MOST_LEVELS)
    for key in ("encoder", "decoder"):
        if key in facts and not features(facts[key]):
            wanted = f"at most {MOST_LEVELS} whole numbers from 1 to {MOST_FEATURES}"
            _refuse(model, f"the architecture's {key}", facts[key], wanted)
    for key, most in (("count", MOST_KEYPOINTS), ("positions", MOST_POSITIONS), ("features", MOST_FEATURES)):
        if key in facts and not is_whole(facts[key], 1, most):
            _refuse(model, f"the architecture's {key}", facts[key], f"a whole number from 1 to {most:,}")
    for key in ("half_resolution", "symmetric", "bfloat16"):
        if not isinstance(facts.get(key, False), bool):
            _refuse(model, f"the architecture's {key}", facts[key], "true or false")
