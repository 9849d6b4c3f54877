"""Cards of others: every field is checked by its kind and range, and wrong ones end in a sentence."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from VoxelMorphRegistrationLib.errors import ModelError
from VoxelMorphRegistrationLib.networks.card import ModelCard, facts_from

DEEP = json.loads('{"a": ' * 40 + "1" + "}" * 40)
WRONG = [
    True,
    -1,
    0.5,
    10**9,
    10**400,
    float("nan"),
    float("inf"),
    "four",
    "",
    "x" * 100_000,
    [],
    ["a"],
    [True] * 3,
    [1, 1, 10**12],
    [10**400] * 3,
    [0, 1, 1],
    [1] * 100_000,
    {},
    {"method": []},
    {"method": "percentile", "low": "a", "high": 3},
    {"method": "percentile", "low": 90, "high": 10},
    {"method": "white-matter", "target": 0},
    {"encoder": [10**9]},
    {"encoder": 3, "decoder": [1]},
    {"bfloat16": "yes"},
    DEEP,
    {"many": list(range(50_000))},
]


@pytest.mark.parametrize("key", [f.name for f in fields(ModelCard)])
@pytest.mark.parametrize("value", WRONG, ids=lambda value: f"{type(value).__name__}-{str(value)[:12]}")
def test_wrong_facts_end_in_a_sentence(key, value):
    card = None
    try:
        card = ModelCard.from_dict({"name": "x", key: value}, "x.json")
    except ModelError as error:
        sentence = str(error)
    if card is None:
        assert f"{key} = " in sentence or "the normalization" in sentence or "architecture's" in sentence
        assert len(sentence) < 400
        return
    # Accepted: then it is of the right kind, and memory and JSON of it work.
    assert card.memory_bytes(1000) > 0 and json.loads(card.to_json())
    if isinstance(value, dict):
        assert key in ("training", "validation", "architecture")
        assert value is not DEEP and "many" not in value
    else:
        assert value in ("four", "", 0.5, 10**9) and not isinstance(value, bool), (key, value)
        assert isinstance(value, str) == isinstance(getattr(ModelCard("x"), key), str)


@pytest.mark.parametrize(
    "facts",
    [
        {"passes": 10**9},
        {"shape": [60_000, 60_000, 60_000]},
        {"stride": 4096},
        {"spacing_mm": [1, 1]},
        {"pass_scales": [1e-9]},
        {"target_voxels": 0},
        {"orientation": "LLL"},
        {"integration_steps": 1000},
        {"name": None},
    ],
)
def test_facts_that_would_never_end_or_fill_the_memory_are_refused(facts):
    with pytest.raises(ModelError, match=f"say {next(iter(facts))} = "):
        ModelCard.from_dict({"name": "x", **facts}, "x.json")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"\xff\xfe", b"{" * 100_000, b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": ' + b"9" * 10_000 + b"}"],
)
def test_texts_that_are_no_facts_are_refused(data):
    with pytest.raises(ModelError, match="x.json"):
        facts_from(data, "x.json")


def test_facts_of_megabytes_are_not_read():
    with pytest.raises(ModelError, match="larger than 1 MiB"):
        facts_from(b" " * (2**20 + 1), "x.json")
