"""Hardware specs: what holds for every one that is shipped, and how specs build on each other."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path

import pytest
import yaml

from hago.errors import SpecError
from hago.kernels.cpu.families import FAMILIES as ISAS
from hago.kernels.cuda.families import FAMILIES as GPUS
from hago.scheme import IntegerType
from hago.spec import (
    OP_KINDS,
    HardwareSpec,
    check_spec,
    load_spec,
    read_spec,
    resolve_hw,
    shipped_folder,
    spec_names,
)
from hago.spec.host import check_target
from hago.spec.yaml import read_with_bases

NAMES = [
    "x86-avx2",
    "x86-avx-vnni",
    "x86-avx512-vnni",
    "x86-avx512-bf16",
    "x86-amx",
    "arm-cortex-a72",
    "arm-cortex-a76",
    "arm-neoverse-v1",
    "nvidia-t4",
    "nvidia-a100",
    "nvidia-orin",
    "nvidia-l4",
    "nvidia-h100",
    "integer-only",
]
INT32_MAX = 2**31 - 1


def test_all_the_promised_specs_are_shipped() -> None:
    assert spec_names() == NAMES


@pytest.fixture(params=NAMES)
def spec(request: pytest.FixtureRequest) -> HardwareSpec:
    return load_spec(request.param)


def test_identity(spec: HardwareSpec) -> None:
    assert Path(spec.path).stem == spec.name
    assert spec.name.startswith(spec.family)
    assert spec.description.endswith(".")
    assert check_spec(spec.path) == []
    assert resolve_hw(spec) is spec and resolve_hw(spec.name) is spec
    assert copy.deepcopy(spec) == spec


def test_sizes_are_those_of_a_device(spec: HardwareSpec) -> None:
    assert spec.device
    assert spec.vector_bits in (128, 256, 512, 1024) and spec.registers >= 16 and spec.cores >= 1
    assert 32 * 1024 <= spec.l1_bytes < spec.l2_bytes
    assert spec.l3_bytes == 0 or spec.l3_bytes >= spec.l2_bytes


def test_target_is_known_to_tvm_and_llvm(spec: HardwareSpec) -> None:
    check_target(spec)


def test_choices(spec: HardwareSpec) -> None:
    assert set(spec.ops) == set(OP_KINDS)
    for kind in OP_KINDS:
        offered = spec.choices(kind)
        precisions = [choice.precision for choice in offered]
        assert "int8" in precisions, kind
        assert len(set(precisions)) == len(precisions)
        assert (precisions[-1] == "float32") == spec.float_unit
        assert all(spec.find(kind, choice.precision) is choice for choice in offered)


def test_integers_cannot_overflow(spec: HardwareSpec) -> None:
    for kind, choice in [(name, choice) for name in OP_KINDS for choice in spec.choices(name)]:
        a, w = choice.activation, choice.weight
        if a is None:
            assert choice.requantize is None and choice.max_reduction is None
            continue
        assert choice.saturates is None  # no shipped spec trades exactness away
        if kind == "matmul":
            w = a
        if kind in ("conv", "depthwise_conv", "fully_connected", "matmul"):
            assert w is not None and choice.accumulator == "int32" and choice.max_reduction is not None
            worst = (a.qmax - a.qmin if not a.symmetric else a.qmax) * (w.qmax - w.qmin if not w.symmetric else w.qmax)
            assert 25_088 <= choice.max_reduction <= INT32_MAX // worst
        if choice.accumulator:
            assert choice.requantize == ("float32" if spec.float_unit else "fixed_point")


def test_weights_and_groups(spec: HardwareSpec) -> None:
    for kind in OP_KINDS:
        for choice in spec.choices(kind):
            weighted = kind in ("conv", "depthwise_conv", "fully_connected") and choice.activation is not None
            assert (choice.weight is not None) == weighted
            assert weighted == any(g.kind == "per_channel" for g in choice.granularities if choice.weight)
            assert all(g.group_size % choice.dot_width == 0 for g in choice.granularities)
            assert choice.weight is None or choice.weight.symmetric


def test_hardware_only_offers_what_it_has(spec: HardwareSpec) -> None:
    offered = {choice.precision for kind in OP_KINDS for choice in spec.choices(kind)}
    assert ("int7" in offered) == (spec.name in ("x86-avx2", "arm-cortex-a72"))  # elsewhere 7 bits buy nothing
    has_bf16 = {"avx512bf16", "bf16"} & set(spec.cpu_features) or spec.target.get("arch", "sm_75") > "sm_75"
    assert ("bfloat16" in offered) == bool(has_bf16)
    if spec.family == "x86":
        conv = spec.find("conv", "int8")
        assert conv.activation == IntegerType(8, signed=False, symmetric=False)
        assert conv.weight == IntegerType(8, signed=True, symmetric=True)
        assert conv.outputs == ("uint8", "float32")


def test_compiling_is_offered_where_there_are_kernels(spec: HardwareSpec) -> None:
    assert spec.kernels_available == (spec.family in ("x86", "arm", "nvidia"))
    if spec.kernels and spec.family == "nvidia":
        gpu = GPUS[spec.kernels]
        assert gpu.arch == spec.target["arch"] and gpu.multiprocessors == spec.cores
        assert gpu.shared_bytes == spec.target["max_shared_memory_per_block"]
        assert gpu.bf16 == ("bfloat16" in {way.precision for way in spec.ops["conv"]})
    elif spec.kernels:
        assert spec.isa == spec.kernels
        isa = ISAS[spec.kernels]
        assert isa.registers == spec.registers and isa.arm == (spec.family == "arm")
        assert isa.bits == (128 if isa.arm else spec.vector_bits)  # NEON: SVE has no kernels yet
        assert bool(isa.bf16_dot) == any(c.precision == "bfloat16" for c in spec.choices("conv"))
        assert bool(isa.fp16_dot) == any(c.precision == "float16" for c in spec.choices("conv"))
    else:
        assert spec.isa == spec.name


def test_families_are_no_hardware() -> None:
    for name in ("x86", "arm", "nvidia"):
        assert name not in spec_names() and read_spec(shipped_folder() / f"{name}.yaml") is None
        with pytest.raises(SpecError, match=f"{name}: is a family of specs"):
            load_spec(name)


def test_avx2_has_both_the_fast_and_the_safe_integers() -> None:
    spec = load_spec("x86-avx2")
    assert [c.precision for c in spec.choices("conv")] == ["int7", "int8", "float32"]
    assert spec.find("conv", "int7").weight == IntegerType(7, signed=True, symmetric=True)
    assert spec.find("conv", "int7").dot_width == 2 * spec.find("conv", "int8").dot_width


def test_amx_asks_for_what_its_kernels_use() -> None:
    spec = load_spec("x86-amx")
    assert ISAS[spec.isa].tiles and {"amx-tile", "amx-int8", "amx-bf16"} <= set(spec.cpu_features)


def test_integer_only_has_no_float_anywhere() -> None:
    spec = load_spec("integer-only")
    for kind in OP_KINDS:
        (choice,) = spec.choices(kind)
        assert choice.outputs == ("int8",) and choice.requantize in (None, "fixed_point")


def test_unknown_names_have_messages() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("x86-avx512-vni")
    assert str(caught.value) == (
        "x86-avx512-vni: there is no such hardware spec\n"
        "  hint: did you mean 'x86-avx512-vnni'? (hago hw list; a file needs its .yaml)"
    )
    spec = load_spec("x86-avx512-vnni")
    with pytest.raises(SpecError) as caught:
        spec.find("conv", "int7")
    assert str(caught.value) == (
        "x86-avx512-vnni: this hardware does not offer conv in int7\n  hint: it offers int8, float32"
    )
    with pytest.raises(SpecError, match="'konv' is not a kind of operation"):
        spec.choices("konv")


def test_merging(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "name: a\ndescription: A.\nabstract: true\nx: {p: 1, q: {r: 2, s: 3}, l: [1, 2]}\ny: 1\n"
    )
    (tmp_path / "b.yaml").write_text("name: b\nextends: a.yaml\nx: {q: {s: 4, t: 5}, l: [3]}\n")
    (tmp_path / "c.yaml").write_text("name: c\nextends: b.yaml\nx: {p: null}\ny: {z: 1}\n")
    document = read_with_bases(tmp_path / "c.yaml", shipped_folder())
    assert document.data == {
        "name": "c",
        "extends": "b.yaml",
        "x": {"p": None, "q": {"r": 2, "s": 4, "t": 5}, "l": [3]},
        "y": {"z": 1},
    }
    own = tmp_path / "c.yaml"
    assert document.where(("x", "q", "r")) == f"{own}: x.q.r (inherited from {tmp_path / 'a.yaml'}:4)"
    assert document.where(("x", "q", "t")) == f"{own}: x.q.t (inherited from {tmp_path / 'b.yaml'}:3)"
    assert document.where(("y", "z")) == f"{tmp_path / 'c.yaml'}:4: y.z"


def test_a_short_spec_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "my-server.yaml"
    file.write_text(
        textwrap.dedent("""\
        name: my-server
        description: A server that keeps tables and pools in float.
        extends: x86-avx512-vnni
        machine: {device: AMD EPYC 9124, cores: 16, l3_bytes: 64 MiB}
        ways:
          int8: {granularities: [per_tensor]}
        ops:
          lookup: [float32-vector]
        """)
    )
    spec, base = load_spec(file), load_spec("x86-avx512-vnni")
    assert (spec.cores, spec.l3_bytes, spec.l2_bytes) == (16, 64 * 2**20, base.l2_bytes)
    assert [str(g) for g in spec.find("conv", "int8").granularities] == ["per_tensor"]
    assert [c.precision for c in spec.choices("lookup")] == ["float32"]
    assert spec.choices("add") == base.choices("add") and spec.target == base.target
    assert resolve_hw(str(file)) == spec


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "a.yaml"}, "a.yaml:2: extends: a spec cannot extend itself: a -> a"),
        ({"a": "b.yaml", "b": "./a.yaml"}, "b.yaml:2: extends: a spec cannot extend itself: a -> b -> a"),
        (
            {"a": "x86-avx3"},
            "a.yaml:2: extends: there is no spec 'x86-avx3' to extend\n  hint: did you mean 'x86-avx",
        ),
        ({"a": "other.yaml"}, "a.yaml:2: extends: there is no spec 'other.yaml' to extend"),
        ({"a": "[x86]"}, "a.yaml:2: extends: must be the name of a spec, found ['x86']"),
        ({"a": "../../../x86"}, "a.yaml:2: extends: there is no spec '../../../x86' to extend"),
    ],
)
def test_bases_that_lead_nowhere(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, base in files.items():
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nextends: {base}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "a.yaml")
    assert message in str(caught.value)


def test_every_shipped_file_is_plain_data() -> None:
    """An ordinary YAML reader sees the same values: nothing leans on our reader's own rules."""
    for path in shipped_folder().glob("*.yaml"):
        ordinary = yaml.safe_load(path.read_text())
        chain = read_with_bases(path, shipped_folder()).data
        assert set(ordinary) <= set(chain)
        assert all(chain[key] == value for key, value in ordinary.items() if not isinstance(value, dict))
