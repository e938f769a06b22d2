"""The rules for specs, and the frozen value of a spec that follows them."""

from __future__ import annotations

from collections.abc import Iterator

from ..documents import KeyPath, did_you_mean
from ..errors import StrategyError
from ..kernels import families
from ..precision import FLOAT32, FLOATS, Format, Precision, integer
from ..scheme import Granularity, IntegerType
from .bounds import accumulator_limit, largest, partial_sum_range
from .schema import INTEGER_STORAGE, InstructionSection, Problem, SpecFile, TypeSection, WaySection
from .types import OP_KINDS, HardwareSpec, Way

WEIGHTED = frozenset({"conv", "depthwise_conv", "fully_connected"})
SUMMING = WEIGHTED | {"matmul", "avg_pool", "global_avg_pool"}  # kinds whose accumulator adds up K terms
ACCUMULATING = SUMMING | {"add", "mul", "scale_shift"}
_STORAGE_BITS = 8


def scheme_of(section: TypeSection) -> IntegerType | None:
    """The integer scheme of a type, or None if it is a float."""
    if section.storage not in INTEGER_STORAGE:
        return None
    return IntegerType(section.bits or _STORAGE_BITS, section.storage == "int8", bool(section.symmetric))


def problems_of(spec: SpecFile) -> list[Problem]:
    """Every rule that the spec breaks; if there are none, `to_hardware` succeeds."""
    found = [*_type_problems(spec), *_instruction_problems(spec)]
    if not found:
        for name, way in spec.ways.items():
            found += _way_problems(spec, ("ways", name), way)
    if not found:
        found += _op_problems(spec)
    if spec.kernels is not None and spec.kernels not in families():
        hint = did_you_mean(spec.kernels, families())
        found.append(Problem(("kernels",), f"there is no kernel family {spec.kernels!r}", hint))
    for index, attribute in enumerate(spec.target.mattr or ()):
        if attribute.startswith("+") and attribute[1:] not in spec.cpu_features:
            text = f"code may use {attribute[1:]}, which cpu_features does not require of the host"
            found.append(Problem(("target", "mattr", index), text))
    return found


def _type_problems(spec: SpecFile) -> Iterator[Problem]:
    for name, section in spec.types.items():
        path: KeyPath = ("types", name)
        if section.storage in INTEGER_STORAGE:
            bits = section.bits if section.bits is not None else _STORAGE_BITS
            if not 2 <= bits <= _STORAGE_BITS:
                yield Problem((*path, "bits"), f"{section.storage} holds 2 to {_STORAGE_BITS} bits, found {bits}")
            path = (*path, "symmetric")
            if section.symmetric is None:
                yield Problem(path, "is missing: an integer type is symmetric (zero point 0) or not")
            elif section.symmetric and section.storage == "uint8":
                yield Problem(path, "an unsigned type cannot be symmetric: it has no negative values")
        else:
            if section.bits is not None:
                yield Problem((*path, "bits"), f"{section.storage} always has {FLOATS[section.storage].bits} bits")
            if section.symmetric is not None:
                yield Problem((*path, "symmetric"), f"{section.storage} is a float: it has no zero point")


def _instruction_problems(spec: SpecFile) -> Iterator[Problem]:
    for name, section in spec.instructions.items():
        path: KeyPath = ("instructions", name)
        if (section.intermediate is None) != (section.terms is None):
            path = (*path, "terms" if section.terms is None else "intermediate")
            yield Problem(path, "is missing: terms is the number of products that intermediate adds up")
        elif section.terms is not None and section.dot % section.terms:
            text = f"must divide the {section.dot} products of a lane, found {section.terms}"
            yield Problem((*path, "terms"), text)


def _way_problems(spec: SpecFile, path: KeyPath, way: WaySection) -> list[Problem]:
    found = []
    for key in ("activation", "weight"):
        name = getattr(way, key)
        if name is not None and name not in spec.types:
            found.append(Problem((*path, key), f"there is no type {name!r}", did_you_mean(name, spec.types)))
    if way.instruction not in spec.instructions:
        hint = did_you_mean(way.instruction, spec.instructions)
        found.append(Problem((*path, "instruction"), f"there is no instruction {way.instruction!r}", hint))
    if found:
        return found
    operands = [spec.types[name] for name in (way.activation, way.weight) if name is not None]
    instruction = spec.instructions[way.instruction]
    activation, weight = _format(operands[0]), _format(operands[1]) if len(operands) > 1 else None
    if weight is not None and not weight.is_integer and weight != activation:
        text = f"{way.activation} and {way.weight} cannot be multiplied: a float weight takes the same float"
        return [Problem((*path, "weight"), text)]
    numbers = Precision(activation, weight)
    if way.precision != numbers.name:
        text = f"must be {numbers.name}, like its operands, found {way.precision!r}"
        found.append(Problem((*path, "precision"), text))
    if numbers.is_integer:
        return [*found, *_integer_way(path, way, operands, instruction)]
    if numbers.is_weight_only:
        found += _weight_problems(path, way, operands[1], instruction)
    return [*found, *_float_way(path, way, operands[0].storage, numbers)]


def _format(section: TypeSection) -> Format:
    return FLOATS.get(section.storage) or integer(section.bits or _STORAGE_BITS)


def _weight_problems(
    path: KeyPath, way: WaySection, weight: TypeSection, instruction: InstructionSection
) -> Iterator[Problem]:
    """Problems with integer weights, independent of the activations."""
    if not weight.symmetric:
        yield Problem((*path, "weight"), f"{way.weight} is asymmetric: weights must be symmetric")
    if not way.granularities:
        yield Problem((*path, "granularities"), "is missing: integer weights have scales")
    yield from _granularity_problems(path, way, instruction)


def _integer_way(
    path: KeyPath, way: WaySection, operands: list[TypeSection], instruction: InstructionSection
) -> Iterator[Problem]:
    schemes = [scheme for section in operands if (scheme := scheme_of(section)) is not None]
    activation, weight = schemes[0], schemes[1] if len(schemes) > 1 else None
    for key, section, sign in zip(
        ("activation", "weight"), operands, instruction.operands or ("any", "any"), strict=False
    ):
        if sign != "any" and (section.storage == "int8") != (sign == "signed"):
            text = f"{way.instruction} takes {sign} numbers here, {getattr(way, key)} is not"
            yield Problem((*path, key), text)
    for index, output in enumerate(way.outputs):
        if output in INTEGER_STORAGE and output != operands[0].storage:
            text = f"must be the activation's {operands[0].storage} or a float, found {output}"
            yield Problem((*path, "outputs", index), text)
    if weight is not None:
        yield from _weight_problems(path, way, operands[1], instruction)
    elif way.granularities:
        yield Problem((*path, "granularities"), "there are no weights that could have scales")
    if way.accumulator is None:
        return
    if way.accumulator.startswith("float"):
        yield Problem((*path, "accumulator"), f"must be an integer, like the products, found {way.accumulator}")
        return
    if way.requantize is None and any(output in INTEGER_STORAGE for output in way.outputs):
        yield Problem((*path, "requantize"), f"is missing: {way.accumulator} must be brought back to 8 bits")
    yield from _overflow_problems(path, way, activation, weight, instruction)


def _overflow_problems(
    path: KeyPath,
    way: WaySection,
    activation: IntegerType,
    weight: IntegerType | None,
    instruction: InstructionSection,
) -> Iterator[Problem]:
    bits = int(str(way.accumulator).removeprefix("int"))
    limit = accumulator_limit(activation, weight, bits)
    terms = f"{way.activation}, |a - zero point| <= {largest(activation)}"
    if weight is not None:
        terms += f", times {way.weight}, |w| <= {largest(weight)}"
    if limit < 1:
        yield Problem((*path, "accumulator"), f"{way.accumulator} is narrower than one product ({terms})")
    elif way.max_reduction is not None and way.max_reduction > limit:
        yield Problem(
            (*path, "max_reduction"),
            f"the accumulator overflows: {way.max_reduction} sums of {terms}, exceed {way.accumulator}",
            hint=f"at most {limit}; half of that leaves room for the bias",
        )
    if instruction.terms is None or weight is None:
        if way.saturates is not None:
            yield Problem((*path, "saturates"), f"{way.instruction} has no partial sums that could saturate")
        return
    low, high = partial_sum_range(activation, weight, instruction.terms)
    leaves = low < -(2**15) or high > 2**15 - 1
    if leaves and way.saturates is None:
        yield Problem(
            (*path, "instruction"),
            f"{way.instruction} sums {instruction.terms} products in int16, and those of {way.activation} "
            f"and {way.weight} reach {high if high > 2**15 - 1 else low}",
            hint="use fewer bits, an instruction that widens, or say that it saturates: int16",
        )
    elif not leaves and way.saturates is not None:
        text = f"partial sums stay within [{low}, {high}]: they cannot saturate int16"
        yield Problem((*path, "saturates"), text)


def _granularity_problems(path: KeyPath, way: WaySection, instruction: InstructionSection) -> Iterator[Problem]:
    for index, text in enumerate(way.granularities):
        at = (*path, "granularities", index)
        try:
            granularity = Granularity.parse(text)
        except StrategyError as error:
            yield Problem(at, error.what)
            continue
        if granularity.group_size % instruction.dot:
            width = f"the {instruction.dot} products of {way.instruction}"
            yield Problem(at, f"a group must be a multiple of {width}, found {text}")
        if text in way.granularities[:index]:
            yield Problem(at, f"{text} is named twice")


def _float_way(path: KeyPath, way: WaySection, storage: str, numbers: Precision) -> Iterator[Problem]:
    """Problems with float activations of this ``storage`` and weights of the same float or integers."""
    if way.accumulator is not None and way.accumulator not in FLOATS:
        yield Problem((*path, "accumulator"), f"must be a float, like the products, found {way.accumulator}")
    elif way.accumulator is not None and FLOATS[way.accumulator].bits < FLOATS[storage].bits:
        text = f"{way.accumulator} is narrower than the {storage} that it sums up"
        yield Problem((*path, "accumulator"), text)
    for index, output in enumerate(way.outputs):
        if output in INTEGER_STORAGE:
            yield Problem((*path, "outputs", index), f"a float is not requantized, found {output}")
    # float8 is the only float that is too short to work without a scale.
    scaled = numbers.is_weight_only or storage == "float8_e4m3"
    for key in ("granularities", "requantize", "saturates", "max_reduction"):
        if getattr(way, key) and not (scaled and key == "granularities"):
            yield Problem((*path, key), f"means nothing for {numbers.name}")


def _op_problems(spec: SpecFile) -> Iterator[Problem]:
    for kind in OP_KINDS:
        path: KeyPath = ("ops", kind)
        if kind not in spec.ops:
            yield Problem(path, "is missing: name the ways to compute it, an empty list if there are none")
            continue
        precisions: list[str] = []
        for index, name in enumerate(spec.ops[kind]):
            if name not in spec.ways:
                yield Problem((*path, index), f"there is no way {name!r}", did_you_mean(name, spec.ways))
                continue
            way = spec.ways[name]
            if way.precision in precisions:
                yield Problem((*path, index), f"{way.precision} is offered twice")
            precisions.append(way.precision)
            yield from _fit_problems(spec, kind, index, name, way)
        if spec.float_unit and precisions[-1:] != [FLOAT32]:
            yield Problem(path, "float32 must be the last way on hardware with a float unit")


def _fit_problems(spec: SpecFile, kind: str, index: int, name: str, way: WaySection) -> Iterator[Problem]:
    """The reasons why a valid way cannot compute that kind of operation."""
    path: KeyPath = ("ops", kind, index)
    integer = spec.types[way.activation].storage in INTEGER_STORAGE
    if kind in WEIGHTED and way.weight is None:
        yield Problem(path, f"the way {name} has no weight, which {kind} needs")
    if kind not in WEIGHTED and way.weight is not None:
        yield Problem(path, f"the way {name} multiplies by a weight, which {kind} does not have")
    if kind in ACCUMULATING and way.accumulator is None:
        yield Problem(path, f"the way {name} has no accumulator, which {kind} needs")
    if kind in SUMMING and integer and way.max_reduction is None:
        yield Problem(path, f"the way {name} has no max_reduction: how many integers may {kind} sum up?")
    if kind == "depthwise_conv" and any(text.startswith("per_group") for text in way.granularities):
        yield Problem(path, f"the way {name} has groups of input channels, of which depthwise_conv has one")
    if kind == "matmul" and integer:
        yield from _product_of_activations(spec, ("ways", name), way)
    floats = not integer or way.requantize == "float32" or not {*way.outputs} <= {*INTEGER_STORAGE}
    if floats and not spec.float_unit:
        yield Problem(path, f"the way {name} uses floats, which hardware without a float unit does not have")


def _product_of_activations(spec: SpecFile, path: KeyPath, way: WaySection) -> Iterator[Problem]:
    """Overflows of a matmul, whose second operand is an activation of the same type."""
    scheme, instruction = scheme_of(spec.types[way.activation]), spec.instructions[way.instruction]
    if scheme is None or way.accumulator is None:
        return
    both = f"both operands are {way.activation}, |a - zero point| <= {largest(scheme)}"
    limit = accumulator_limit(scheme, scheme, int(way.accumulator.removeprefix("int")))
    if limit < 1:
        yield Problem((*path, "accumulator"), f"{way.accumulator} is narrower than one product ({both})")
    elif way.max_reduction is not None and way.max_reduction > limit:
        yield Problem((*path, "max_reduction"), f"the accumulator overflows: {both}", hint=f"at most {limit}")
    if instruction.terms is not None and way.saturates is None:
        high = partial_sum_range(scheme, scheme, instruction.terms)[1]
        if high > 2**15 - 1:
            text = f"{way.instruction} sums {instruction.terms} products in int16: {both}, reach {high}"
            yield Problem((*path, "instruction"), text, hint="use an instruction that widens")


def to_hardware(spec: SpecFile, path: str) -> HardwareSpec:
    """The frozen value of a spec that has no problems."""

    def built(way: WaySection) -> Way:
        return Way(
            precision=way.precision,
            activation=scheme_of(spec.types[way.activation]),
            weight=None if way.weight is None else scheme_of(spec.types[way.weight]),
            accumulator=way.accumulator,
            outputs=tuple(way.outputs),
            granularities=tuple(Granularity.parse(text) for text in way.granularities),
            saturates=way.saturates,
            requantize=way.requantize,
            instruction=way.instruction,
            dot_width=spec.instructions[way.instruction].dot,
            max_reduction=way.max_reduction,
        )

    return HardwareSpec(
        **spec.machine.model_dump(),
        name=spec.name,
        description=spec.description,
        family=spec.family,
        extends=spec.extends,
        target=spec.target.model_dump(exclude_none=True),
        kernels=spec.kernels,
        cpu_features=tuple(spec.cpu_features),
        float_unit=spec.float_unit,
        ops={kind: tuple(built(spec.ways[name]) for name in spec.ops[kind]) for kind in OP_KINDS},
        path=path,
    )
