"""Each rule that a hardware spec can break, and the message that tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hago.errors import SpecError
from hago.spec import (
    check_spec,
    load_spec,
    shipped_folder,
)
from hago.spec.yaml import read_with_bases

_HEAD = """\
name: mine
description: A spec of one's own.
extends: x86-avx2
"""

BROKEN: dict[str, tuple[str, str]] = {
    "unknown key": (
        "machine: {core: 4}",
        "{file}:4: machine.core: unknown key\n  hint: did you mean 'cores'?",
    ),
    "unknown key at the top": (
        "kernel: x86-avx2",
        "{file}:4: kernel: unknown key\n  hint: did you mean 'kernels'?",
    ),
    "unknown key of a way": (
        "ways:\n  int8: {lik: int7}",
        "{file}:5: ways.int8.lik: unknown key\n  hint: did you mean 'like'?",
    ),
    "wrong type": (
        "machine:\n  cores: four",
        "{file}:5: machine.cores: must be a whole number, found 'four'",
    ),
    "a truth as number": (
        "machine: {cores: true}",
        "{file}:4: machine.cores: must be a whole number, found True",
    ),
    "a number out of range": (
        "machine: {cores: 0}",
        "{file}:4: machine.cores: must be at least 1, found 0",
    ),
    "a size without unit": (
        "machine: {l1_bytes: 32 kB}",
        "{file}:4: machine.l1_bytes: must be a whole number, found '32 kB'",
    ),
    "not a mapping": ("machine: fast", "{file}:4: machine: must be a mapping, found 'fast'"),
    "not a list": ("ops: {conv: int8}", "{file}:4: ops.conv: must be a list, found 'int8'"),
    "unknown word": (
        "types: {weight: {storage: int9}}",
        "{file}:4: types.weight.storage: must be 'int8', 'uint8', 'float8_e4m3', 'float16', 'bfloat16' or "
        "'float32', found 'int9'\n  hint: did you mean 'int8'?",
    ),
    "missing field": ("machine:\n  device: null", "{file}:5: machine.device: is missing"),
    "too many bits": (
        "types: {weight: {bits: 9}}",
        "{file}:4: types.weight.bits: int8 holds 2 to 8 bits, found 9",
    ),
    "neither symmetric nor not": (
        "types: {mine: {storage: int8}}",
        "{file}:4: types.mine.symmetric: is missing: an integer type is symmetric (zero point 0) or not",
    ),
    "unsigned and symmetric": (
        "types: {activation: {symmetric: true}}",
        "{file}:4: types.activation.symmetric: an unsigned type cannot be symmetric: it has no negative values",
    ),
    "float with zero point": (
        "types: {float32: {symmetric: false}}",
        "{file}:4: types.float32.symmetric: float32 is a float: it has no zero point",
    ),
    "float with bits": (
        "types: {float32: {bits: 24}}",
        "{file}:4: types.float32.bits: float32 always has 32 bits",
    ),
    "asymmetric weights": (
        "types: {weight: {symmetric: false}}",
        "{file}: ways.int8.weight (inherited from {shipped}/x86.yaml:28): weight is asymmetric: "
        "weights must be symmetric",
    ),
    "precision unlike its bits": (
        "ways: {int8: {precision: int6}}",
        "{file}:4: ways.int8.precision: must be int8, like its operands, found 'int6'",
    ),
    "accumulator overflow": (
        "ways: {int8: {max_reduction: 66312}}",
        "{file}:4: ways.int8.max_reduction: the accumulator overflows: 66312 sums of activation, "
        "|a - zero point| <= 255, times weight, |w| <= 127, exceed int32\n"
        "  hint: at most 66311; half of that leaves room for the bias",
    ),
    "accumulator narrower than a product": (
        "ways:\n  int16-matmul: {like: int8-matmul, accumulator: int16, max_reduction: 1}\n"
        "ops: {matmul: [int16-matmul, float32-matmul]}",
        "{file}:5: ways.int16-matmul.accumulator: int16 is narrower than one product (both operands are "
        "activation, |a - zero point| <= 255)",
    ),
    "int16 accumulator": (
        "ways: {int8: {accumulator: int16, max_reduction: 32768}}",
        "{file}:4: ways.int8.max_reduction: the accumulator overflows: 32768 sums of activation, "
        "|a - zero point| <= 255, times weight, |w| <= 127, exceed int16\n"
        "  hint: at most 1; half of that leaves room for the bias",
    ),
    "matmul overflow": (
        "ways: {int8-matmul: {max_reduction: 33026}}",
        "{file}:4: ways.int8-matmul.max_reduction: the accumulator overflows: both operands are activation, "
        "|a - zero point| <= 255\n  hint: at most 33025",
    ),
    "float accumulator of integers": (
        "ways: {int8: {accumulator: float32}}",
        "{file}:4: ways.int8.accumulator: must be an integer, like the products, found float32",
    ),
    "saturating pairs": (
        "ways:\n  int8: {instruction: vpmaddubsw + vpmaddwd}",
        "{file}:5: ways.int8.instruction: vpmaddubsw + vpmaddwd sums 2 products in int16, and those of "
        "activation and weight reach 64770\n"
        "  hint: use fewer bits, an instruction that widens, or say that it saturates: int16",
    ),
    "saturation that cannot be": (
        "ways: {int7: {saturates: int16}}",
        "{file}:4: ways.int7.saturates: partial sums stay within [-32130, 32130]: they cannot saturate int16",
    ),
    "saturation without partial sums": (
        "ways: {int8: {saturates: int16}}",
        "{file}:4: ways.int8.saturates: vpmovzxbw + vpmaddwd has no partial sums that could saturate",
    ),
    "group unlike the dot product": (
        'ways: {int7: {granularities: [per_channel, "per_group:6"]}}',
        "{file}:4: ways.int7.granularities[1]: a group must be a multiple of the 4 products of "
        "vpmaddubsw + vpmaddwd, found per_group:6",
    ),
    "unknown granularity": (
        "ways: {int8: {granularities: [per_row]}}",
        "{file}:4: ways.int8.granularities[0]: granularity must be per_tensor, per_channel or "
        "per_group:SIZE, not 'per_row'",
    ),
    "granularity twice": (
        "ways: {int8: {granularities: [per_tensor, per_tensor]}}",
        "{file}:4: ways.int8.granularities[1]: per_tensor is named twice",
    ),
    "no granularity": (
        "ways: {int8: {granularities: []}}",
        "{file}:4: ways.int8.granularities: is missing: integer weights have scales",
    ),
    "groups of a depthwise convolution": (
        'ways: {int7-depthwise: {granularities: ["per_group:32"]}}',
        "{file}: ops.depthwise_conv[0] (inherited from {shipped}/x86-avx2.yaml:31): the way int7-depthwise "
        "has groups of input channels, of which depthwise_conv has one",
    ),
    "scales without weights": (
        "ways: {int8-matmul: {granularities: [per_tensor]}}",
        "{file}:4: ways.int8-matmul.granularities: there are no weights that could have scales",
    ),
    "wrong sign": (
        "types: {activation: {storage: int8}}",
        "{file}: ways.int8.outputs[0] (inherited from {shipped}/x86.yaml:30): must be the activation's int8 "
        "or a float, found uint8",
    ),
    "operand of the wrong sign": (
        "types: {signed: {storage: int8, symmetric: true}}\nways: {int7: {activation: signed, outputs: [float32]}}",
        "{file}:5: ways.int7.activation: vpmaddubsw + vpmaddwd takes unsigned numbers here, signed is not",
    ),
    "integer times float": (
        "ways: {int8: {weight: float32}}",
        "{file}:4: ways.int8.weight: activation and float32 cannot be multiplied: a float weight takes the same float",
    ),
    "no requantize": (
        "ways: {int8: {requantize: null}}",
        "{file}:4: ways.int8.requantize: is missing: int32 must be brought back to 8 bits",
    ),
    "requantized float": (
        "ways: {float32: {requantize: float32}}",
        "{file}:4: ways.float32.requantize: means nothing for float32",
    ),
    "float to integer": (
        "ways: {float32: {outputs: [uint8]}}",
        "{file}:4: ways.float32.outputs[0]: a float is not requantized, found uint8",
    ),
    "narrow float accumulator": (
        "ways: {float32: {accumulator: float16}}",
        "{file}:4: ways.float32.accumulator: float16 is narrower than the float32 that it sums up",
    ),
    "unknown type": (
        "ways: {int8: {weight: weigth}}",
        "{file}:4: ways.int8.weight: there is no type 'weigth'\n  hint: did you mean 'weight'?",
    ),
    "unknown instruction": (
        "ways: {int8: {instruction: vpmullw + vpaddd}}",
        "{file}:4: ways.int8.instruction: there is no instruction 'vpmullw + vpaddd'\n"
        "  hint: did you mean 'vpmulld + vpaddd'?",
    ),
    "unknown way": (
        "ops: {conv: [int88, float32]}",
        "{file}:4: ops.conv[0]: there is no way 'int88'\n  hint: did you mean 'int8'?",
    ),
    "unknown like": (
        "ways: {mine: {like: int88}}",
        "{file}:4: ways.mine.like: there is no way 'int88'\n  hint: did you mean 'int8'?",
    ),
    "like itself": (
        "ways:\n  a: {like: b}\n  b: {like: a}",
        "{file}:6: ways.b.like: a way cannot be like itself: a -> b -> a",
    ),
    "unknown operation": (
        "ops: {avgpool: null}",
        "{file}:4: ops.avgpool: is not a kind of operation\n  hint: did you mean 'avg_pool'?",
    ),
    "missing operation": (
        "ops: {resize: null}",
        "{file}:4: ops.resize: is missing: name the ways to compute it, an empty list if there are none",
    ),
    "a precision twice": (
        "ops: {conv: [int8, int8, float32]}",
        "{file}:4: ops.conv[1]: int8 is offered twice",
    ),
    "float32 not last": (
        "ops: {conv: [float32, int8]}",
        "{file}:4: ops.conv: float32 must be the last way on hardware with a float unit",
    ),
    "weights where there are none": (
        "ops: {add: [int8, float32-vector]}",
        "{file}:4: ops.add[0]: the way int8 multiplies by a weight, which add does not have",
    ),
    "no accumulator": (
        "ops: {add: [int8-move, float32-vector]}",
        "{file}:4: ops.add[0]: the way int8-move has no accumulator, which add needs",
    ),
    "no bound of the sum": (
        "ops: {avg_pool: [int8-mul, float32-vector]}",
        "{file}:4: ops.avg_pool[0]: the way int8-mul has no max_reduction: how many integers may avg_pool sum up?",
    ),
    "floats without a float unit": (
        "float_unit: false\nops: {conv: [int8]}",
        "{file}:5: ops.conv[0]: the way int8 uses floats, which hardware without a float unit does not have",
    ),
    "unknown kernels": (
        "kernels: x86-avx3",
        "{file}:4: kernels: there is no kernel family 'x86-avx3'\n  hint: did you mean 'x86-avx2'?",
    ),
    "a feature that is not asked for": (
        "target: {mattr: [+avxvnni]}",
        "{file}:4: target.mattr[0]: code may use avxvnni, which cpu_features does not require of the host",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_every_rule_has_its_message(rule: str, tmp_path: Path) -> None:
    body, message = BROKEN[rule]
    file = tmp_path / "mine.yaml"
    file.write_text(_HEAD + body + "\n")
    problems = check_spec(file)
    assert problems, "the rule does not bite"
    assert str(problems[0]) == message.format(file=file, shipped=shipped_folder())
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert caught.value.what == problems[0].what and caught.value.where == problems[0].where
    if len(problems) > 1:
        assert f"{len(problems) - 1} more: hago hw check {file}" in str(caught.value)


def test_a_problem_inherited_is_reported_where_it_is(tmp_path: Path) -> None:
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(_HEAD.replace("mine", "base") + "machine:\n  cors: 4\n")
    own.write_text("name: own\ndescription: x\nextends: base.yaml\n")
    with pytest.raises(SpecError, match=r"own\.yaml: machine\.cors \(inherited from .*base\.yaml:5\): unknown key"):
        load_spec(own)


def test_a_shipped_name_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "x86-avx2.yaml"
    file.write_text(_HEAD.replace("mine", "x86-avx2"))
    with pytest.raises(SpecError, match=r"x86-avx2\.yaml:1: name: x86-avx2 is the name of a shipped spec"):
        load_spec(file)


LANGUAGE = {
    "syntax": ("name: [a\nb: c", "{file}:2:2: broken YAML: "),
    "tab": ("name:\n\t- a", "{file}:2:1: broken YAML: found character"),
    "key twice": (
        "name: a\nmachine:\n  cores: 1\n  cores: 2",
        "{file}:4: machine.cores: duplicate key, first in line 3",
    ),
    "anchor": ("name: &a b\ndescription: *a", "{file}:1:7: broken YAML: anchors and aliases are not allowed"),
    "tag": (
        "name: !!python/object/apply:os.system [ls]",
        "{file}:1: name: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
    ),
    "forced tag": ("name: !!int word", "{file}:1: name: the tag 'tag:yaml.org,2002:int' is not allowed"),
    "number as key": ("1: a", "{file}:1: a key must be text\n  hint: put it in quotes"),
    "merge key": ("<<: {a: b}", "{file}:1: <<: unknown key"),
    "list": ("- a", "{file}: must be a mapping of keys to values"),
    "empty": ("", "{file}: must be a mapping of keys to values"),
    "two documents": ("name: a\n---\nname: b", "{file}:2:1: broken YAML: there is a second document"),
    "control character": ("name: \x07", "{file}: holds a character that YAML does not allow"),
    "too deep": ("name: " + "[" * 5000, "{file}:1:"),
}


@pytest.mark.parametrize("case", LANGUAGE)
def test_the_language_is_strict(case: str, tmp_path: Path) -> None:
    text, message = LANGUAGE[case]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    problems = [str(problem) for problem in check_spec(file)]
    assert any(problem.startswith(message.format(file=file)) for problem in problems), problems


def test_words_that_yaml_1_1_would_turn_into_something_else(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("a: no\nb: on\nc: 1:30\nd: 2026-01-01\ne: 0x10\nf: 010\ng: ~\nh: -1.5\ni: yes\n")
    document = read_with_bases(file, shipped_folder())
    assert document.data == {
        "a": "no", "b": "on", "c": "1:30", "d": "2026-01-01", "e": "0x10", "f": "010", "g": None,
        "h": -1.5, "i": "yes",
    }  # fmt: skip


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none.yaml", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        assert str(caught.value) == f"{path}: {words}"
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SpecError, match="is not UTF-8 text"):
        load_spec(binary)
    binary.write_bytes(b"a" * (2 << 20))
    with pytest.raises(SpecError, match="is larger than 1 MiB"):
        load_spec(str(binary))
