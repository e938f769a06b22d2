"""The same seed proposes the same, and the same strategy gives the same QDQ file, as in earlier versions."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
from golden import DIGITS, FILE, SAMPLERS, SPECS, calibration, proposals, strategies

from hago.files import hash_bytes
from hago.model import load_model
from hago.qdq import quantize_model
from hago.spec import load_spec

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("hw", SPECS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_proposes_what_earlier_versions_proposed(sampler, hw):
    other = {name: version(name) for name, had in GOLDEN["drawn with"].items() if version(name) != had}
    if other:
        pytest.skip(f"samplers draw differently with {other}; the proposals on record are of {GOLDEN['drawn with']}")
    assert proposals(sampler, hw) == GOLDEN["proposals"][f"{hw} {sampler}"]


@pytest.mark.parametrize("name", GOLDEN["quantized"])
def test_the_same_strategy_is_written_and_quantized_as_by_earlier_versions(name):
    model = load_model(DIGITS)
    strategy, expected = strategies(model)[name], GOLDEN["quantized"][name]
    assert strategy.key() == expected["strategy"]
    assert strategy.to_dict() == expected["text"]
    qdq = quantize_model(model, strategy, calibration(model), load_spec(strategy.hw))
    assert hash_bytes(qdq.SerializeToString(deterministic=True)) == expected["qdq"]
