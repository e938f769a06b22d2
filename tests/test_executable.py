"""The plan of memory: what is needed at the same time never shares a block."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hago.compiler.executable import plan_memory
from hago.compiler.program import Program, ProgramStep
from hago.tensor import TensorType


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Chains and joins of kernels, with an alias here and there."""
    names, steps = ["x"], []
    types = {"x": TensorType("uint8", (7,))}
    for i in range(draw(st.integers(1, 12))):
        sources = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
        if draw(st.integers(0, 3)) == 0:
            source, name = sources[0], f"alias{i}"
            steps.append(ProgramStep((name,), (source,)))
            types[name], made = types[source], [name]
        else:
            made = [f"t{i}_{k}" for k in range(draw(st.integers(1, 2)))]
            types.update({name: TensorType("uint8", (draw(st.integers(1, 500)),)) for name in made})
            steps.append(ProgramStep(tuple(made), sources, key=f"k{i}"))
        names += made
    outputs = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
    return Program(tuple(steps), ("x",), outputs, types, {})


@given(programs())
def test_no_tensor_is_overwritten_while_it_is_needed(program: Program) -> None:
    plan = plan_memory(program)
    holds: dict[int, str] = {}  # block -> the tensor written to it last
    for step in program.steps:
        for item in step.inputs:
            root = plan.roots.get(str(item), str(item))
            if root in plan.blocks:
                assert holds[plan.blocks[root]] == root
        reads: set[Any] = {plan.blocks.get(plan.roots.get(str(i), str(i))) for i in step.inputs}
        if step.key is None:
            continue
        for name in step.output:
            if name in plan.blocks:
                block = plan.blocks[name]
                assert block not in reads and plan.sizes[block] >= program.types[name].size
                holds[block] = name
        written = [plan.blocks[name] for name in step.output if name in plan.blocks]
        assert len(written) == len(set(written))
    for name in program.outputs:  # they outlive the call
        assert plan.roots.get(name, name) not in plan.blocks


def test_a_chain_takes_two_blocks() -> None:
    types = {f"t{i}": TensorType("uint8", (100 + i,)) for i in range(8)}
    steps = tuple(ProgramStep((f"t{i}",), (f"t{i - 1}",), key="k") for i in range(1, 8))
    plan = plan_memory(Program(steps, ("t0",), ("t7",), types, {}))
    assert len(plan.sizes) == 2 and sum(plan.sizes) == 256
