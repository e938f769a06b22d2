"""The schema of a spec file: its keys and their types. `hago.spec.rules` checks the values against each
other.

    types         named tensor types: storage, and for integers the bits used, symmetric or not
    instructions  dot products: products per lane, signs of the operands, where pairs are summed
    ways          named ways to compute: operand types, accumulator, outputs, granularities, instruction;
                  ``like: OTHER`` starts from another way
    ops           for each kind of operation the ways that are allowed, fastest first
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..documents import Document, KeyPath, did_you_mean
from .types import OP_KINDS
from .yaml import OWN_KEYS

Storage = Literal["int8", "uint8", "float8_e4m3", "float16", "bfloat16", "float32"]
INTEGER_STORAGE = ("int8", "uint8")


@dataclass(frozen=True)
class Problem:
    """One broken rule: its key, what must hold and what was found, and a hint."""

    path: KeyPath
    text: str
    hint: str | None = None


def _size(value: Any) -> Any:
    """``32 KiB`` and ``1.25 MiB`` in bytes; anything else is left to the type check."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,6}(?:\.\d{1,4})?) (KiB|MiB)", value)):
        size = float(match[1]) * (1024 if match[2] == "KiB" else 1024**2)
        if size.is_integer():
            return int(size)
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Count = Annotated[int, Field(ge=1, le=2**31)]
Size = Annotated[int, BeforeValidator(_size), Field(ge=0, le=2**40)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]


class TypeSection(_Section):
    """One entry of ``types``."""

    storage: Storage
    bits: int | None = None
    symmetric: bool | None = None


class InstructionSection(_Section):
    """One entry of ``instructions``."""

    dot: Count = 1
    operands: tuple[Literal["signed", "unsigned"], Literal["signed", "unsigned"]] | None = None
    intermediate: Literal["int16"] | None = None
    terms: Count | None = None


class WaySection(_Section):
    """One entry of ``ways``, with ``like`` resolved."""

    precision: Text
    activation: Text
    weight: Text | None = None
    accumulator: Literal["int16", "int32", "float16", "float32"] | None = None
    outputs: Annotated[list[Storage], Field(min_length=1)]
    granularities: list[Text] = []
    saturates: Literal["int16"] | None = None
    requantize: Literal["float32", "fixed_point"] | None = None
    instruction: Text
    max_reduction: Count | None = None


class HostSection(_Section):
    """``target.host``: the processor that drives an accelerator."""

    kind: Literal["llvm"]
    mtriple: Text
    mcpu: Text | None = None
    mattr: list[Text] | None = None


class TargetSection(_Section):
    """``target``: the compiler's target."""

    kind: Literal["llvm", "cuda", "c"]
    mtriple: Text | None = None
    mcpu: Text | None = None
    mattr: list[Text] | None = None
    arch: Text | None = None
    host: HostSection | None = None
    max_threads_per_block: Count | None = None
    max_shared_memory_per_block: Count | None = None
    registers_per_block: Count | None = None
    thread_warp_size: Count | None = None
    l2_cache_size_bytes: Count | None = None


class MachineSection(_Section):
    """``machine``: sizes of a typical device."""

    device: Text
    vector_bits: Count
    registers: Count
    cores: Count
    l1_bytes: Size
    l2_bytes: Size
    l3_bytes: Size


class SpecFile(_Section):
    """A whole spec, merged with what it extends."""

    name: Name
    description: Text
    family: Literal["x86", "arm", "nvidia", "integer"]
    abstract: bool = False
    extends: Text | None = None
    target: TargetSection
    kernels: Text | None = None
    cpu_features: list[Text] = []
    float_unit: bool
    machine: MachineSection
    types: dict[str, TypeSection]
    instructions: dict[str, InstructionSection]
    ways: dict[str, WaySection]
    ops: dict[str, list[str]]


_SECTIONS: Mapping[KeyPath, type[_Section]] = {
    (): SpecFile,
    ("target",): TargetSection,
    ("target", "host"): HostSection,
    ("machine",): MachineSection,
    ("types", "*"): TypeSection,
    ("instructions", "*"): InstructionSection,
    ("ways", "*"): WaySection,
}
_MESSAGES = {
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_pattern_mismatch": "must be lower-case letters, digits and . _ - only",
    "string_too_long": "must have at most {max_length} characters",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


def _without_nulls(value: Any, path: KeyPath = ()) -> Any:
    """Removes keys whose value is null, which drops what was inherited.

    Unknown keys stay, whatever their value, to be refused.
    """
    if not isinstance(value, dict):
        return value
    known = _known_keys(path)
    return {
        key: _without_nulls(item, (*path, key))
        for key, item in value.items()
        if item is not None or (known and key not in known)
    }


def parse(document: Document) -> tuple[SpecFile | None, list[Problem]]:
    """The typed spec, or None and the problems. An abstract spec (a family) may leave fields out."""
    ops = document.data.get("ops")
    problems = [
        Problem(("ops", kind), "is not a kind of operation", did_you_mean(kind, OP_KINDS))
        for kind in (ops if isinstance(ops, dict) else ())
        if kind not in OP_KINDS
    ]
    data = {**document.data, "ways": _expand_likes(document.data.get("ways"), problems)}
    if problems:
        return None, problems
    data = _without_nulls(data)
    try:
        return SpecFile.model_validate(_as_tuples(data)), []
    except ValidationError as error:
        abstract = data.get("abstract") is True
        return None, [
            problem
            for problem in _translate(error)
            if not (abstract and problem.text == _MISSING and problem.path[0] not in OWN_KEYS)
        ]


_MISSING = "is missing"


def _as_tuples(data: dict[str, Any]) -> dict[str, Any]:
    """`operands` is a pair; pydantic's strict mode takes only a tuple, and YAML gives a list."""
    instructions = data.get("instructions")
    if not isinstance(instructions, dict):
        return data
    changed = {
        name: {**entry, "operands": tuple(entry["operands"])}
        if isinstance(entry, dict) and isinstance(entry.get("operands"), list)
        else entry
        for name, entry in instructions.items()
    }
    return {**data, "instructions": changed}


def _expand_likes(ways: Any, problems: list[Problem]) -> Any:
    if not isinstance(ways, dict):
        return ways

    def expand(name: str, trail: tuple[str, ...]) -> Any:
        way = ways[name]
        if not isinstance(way, dict) or way.get("like") is None:
            return {k: v for k, v in way.items() if k != "like"} if isinstance(way, dict) else way
        path, base = ("ways", name, "like"), way["like"]
        if not isinstance(base, str) or ways.get(base) is None:
            known = [key for key in ways if key != name]
            problems.append(Problem(path, f"there is no way {base!r}", did_you_mean(str(base), known)))
            return {}
        if base in (*trail, name):
            cycle = " -> ".join((*trail, name, base))
            problems.append(Problem(path, f"a way cannot be like itself: {cycle}"))
            return {}
        inherited = expand(base, (*trail, name))
        own = {key: value for key, value in way.items() if key != "like"}
        return {**inherited, **own} if isinstance(inherited, dict) else own

    return {name: expand(name, ()) for name in ways}


def _translate(error: ValidationError) -> Iterator[Problem]:
    for item in error.errors(include_url=False, include_context=True):
        path: KeyPath = tuple(part for part in item["loc"] if part != "[key]")
        kind, found = item["type"], item["input"]
        if kind == "missing":
            yield Problem(path, _MISSING)
        elif kind == "extra_forbidden":
            yield Problem(path, "unknown key", did_you_mean(str(path[-1]), _known_keys(path[:-1])))
        elif kind == "literal_error":
            expected = str(item["ctx"]["expected"])
            close = difflib.get_close_matches(str(found), re.findall(r"'([^']*)'", expected), n=1)
            hint = f"did you mean {close[0]!r}?" if close else None
            yield Problem(path, f"must be {expected}, found {_short(found)}", hint)
        else:
            message = (_MESSAGES.get(kind) or item["msg"]).format(**item.get("ctx", {}))
            yield Problem(path, f"{message}, found {_short(found)}")


def _known_keys(path: KeyPath) -> list[str]:
    generic = (path[0], "*") if len(path) == 2 and path not in _SECTIONS else path
    known = list(_SECTIONS[generic].model_fields) if generic in _SECTIONS else []
    return [*known, "like"] if generic == ("ways", "*") else known


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
