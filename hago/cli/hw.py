"""``hago hw list | show NAME | check FILE | detect``: the hardware specs on the command line."""

from __future__ import annotations

import argparse
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..errors import SpecError
from ..kernels import why_not
from ..scheme import IntegerType
from ..spec import OP_KINDS, HardwareSpec, Way, check_spec, load_spec, read_spec, spec_names
from ..visible import cell, visible
from .common_arguments import leaf
from .screen import screen

_DESCRIPTION = "Hardware specs: the precisions and instructions each operator can use on a kind of machine."

_COLUMNS = (
    "op",
    "precision",
    "activation",
    "weight",
    "accumulator",
    "outputs",
    "scales of weights",
    "saturates",
    "requantize",
    "instruction",
    "dot",
)


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds the ``hw`` command. Each leaf sets ``run``: a function of the parsed arguments -> exit code."""
    about = "list, show, check or detect hardware specs"
    parser = subparsers.add_parser("hw", help=about, description=_DESCRIPTION)
    commands = parser.add_subparsers(title="commands", dest="hw_command", metavar="COMMAND", required=True)

    listing = leaf(commands, "list", "list the specs that come with Hago")
    listing.set_defaults(run=_list)
    show = leaf(commands, "show", "show the contents of one spec")
    show.add_argument("name", metavar="NAME", help="a shipped spec, a YAML file, or auto")
    show.set_defaults(run=_show)
    check = leaf(commands, "check", "check spec files")
    check.add_argument("files", metavar="FILE", nargs="+", help="a hardware spec in YAML")
    check.set_defaults(run=_check)
    detect = leaf(commands, "detect", "show which spec fits this machine, and why")
    detect.set_defaults(run=_detect)


def _list(_: argparse.Namespace) -> int:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("precisions of a convolution")
    table.add_column("compiles")
    table.add_column("what it is")
    for name in spec_names():
        spec = load_spec(name)
        precisions = " ".join(choice.precision for choice in spec.choices("conv"))
        table.add_row(name, precisions, "yes" if spec.kernels_available else "not yet", cell(spec.description))
    screen().print(table)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from ..spec import resolve_hw

    spec = resolve_hw(arguments.name)
    console = screen()
    console.print(_title(spec), end="\n\n")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for key, value in _facts(spec):
        facts.add_row(key, cell(value))
    console.print(facts)
    console.print(_ways(spec))
    return 0


def _title(spec: HardwareSpec) -> Text:
    return cell(spec.name, "bold").append(f"  {visible(spec.description)}", "not bold")


def _facts(spec: HardwareSpec) -> list[tuple[str, str]]:
    kernels = f"those of {spec.kernels}" if spec.kernels else "none yet: Hago cannot compile for it"
    width, cores = (
        ("warp", "multiprocessors") if spec.family == "nvidia" else ("vectors", "cores" if spec.cores > 1 else "core")
    )
    caches = ", ".join(
        f"{name} {_bytes(size)}"
        for name, size in (("L1", spec.l1_bytes), ("L2", spec.l2_bytes), ("L3", spec.l3_bytes))
        if size
    )
    return [
        ("family", spec.family + (f", extends {spec.extends}" if spec.extends else "")),
        ("target", " ".join(f"{key}={_target_value(value)}" for key, value in spec.target.items())),
        ("needs", " ".join(spec.cpu_features) or "nothing more"),
        ("kernels", kernels),
        ("typical device", f"{spec.device}: {spec.cores} {cores}, {caches}"),
        (width, f"{spec.vector_bits} bits, {spec.registers} registers"),
        ("floats", "yes" if spec.float_unit else "no float unit: scales are integer multipliers and shifts"),
    ]


def _target_value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + " ".join(f"{key}={_target_value(item)}" for key, item in value.items()) + ")"
    return ",".join(value) if isinstance(value, list) else str(value)


def _bytes(size: int) -> str:
    for unit, scale in (("MiB", 1024**2), ("KiB", 1024)):
        if size >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size} bytes"


def _ways(spec: HardwareSpec) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in _COLUMNS:
        table.add_column(title, no_wrap=title in ("op", "precision", "activation", "weight"))
    together: dict[tuple[bool, tuple[tuple[Way, bool], ...]], list[str]] = {}
    for kind in OP_KINDS:
        offered = tuple((way, why_not(spec, kind, way) is None) for way in spec.choices(kind))
        together.setdefault((kind == "matmul", offered), []).append(kind)
    for (_, offered), kinds in together.items():
        names = "\n".join(kinds)
        if not offered:
            table.add_row(names, "none")
        for index, (choice, has_kernel) in enumerate(offered):
            last = index == len(offered) - 1
            cells = [cell(text) for text in _cells(kinds[0], choice)]
            if not has_kernel:
                cells[_COLUMNS.index("instruction") - 1].append("\nno kernel yet")
            table.add_row("" if index else names, *cells, end_section=last)
    return table


def _cells(kind: str, choice: Way) -> list[str]:
    weight = "-"
    if kind == "matmul":
        weight = "same"
    elif choice.weight is not None or kind in ("conv", "depthwise_conv", "fully_connected"):
        weight = _scheme(choice.weight, choice.precision)
    activation = choice.numbers.activation
    sums = f"at {choice.saturates}" if choice.saturates else ("no" if choice.accumulator else "-")
    return [
        choice.precision,
        _scheme(choice.activation, activation.kind if activation else "as it comes"),
        weight,
        choice.accumulator or "-",
        ", ".join(choice.outputs),
        _granularities(choice),
        sums,
        choice.requantize or "-",
        choice.instruction,
        str(choice.dot_width) if choice.dot_width > 1 else "-",
    ]


def _scheme(scheme: IntegerType | None, floats: str) -> str:
    """``uint8 asym``, ``int7 sym``: how many bits are used (storage is always 8), zero point or not."""
    if scheme is None:
        return floats
    return f"{'' if scheme.signed else 'u'}int{scheme.bits} {'sym' if scheme.symmetric else 'asym'}"


def _granularities(choice: Way) -> str:
    groups = [str(g.group_size) for g in choice.granularities if g.group_size]
    words = [g.kind.removeprefix("per_") for g in choice.granularities if not g.group_size]
    return ", ".join([*words, *([f"group {'/'.join(groups)}"] if groups else [])]) or "-"


def _check(arguments: argparse.Namespace) -> int:
    from ..spec.host import check_target

    console, failed = screen(), False
    for file in arguments.files:
        problems = check_spec(file)
        said = f"{file}: good (a family: what extends it must complete it)"
        if not problems and (spec := read_spec(file)) is not None:
            try:
                check_target(spec)
            except SpecError as error:
                problems = [error]
            ways = sum(len(spec.choices(kind)) for kind in OP_KINDS)
            said = f"{file}: good ({spec.name}: {ways} ways for {len(OP_KINDS)} kinds of operation)"
        for line in [str(problem) for problem in problems] or [said]:
            console.print(cell(line), soft_wrap=True)
        failed = failed or bool(problems)
    return 2 if failed else 0


def _detect(_: argparse.Namespace) -> int:
    from ..device.gpus import detect_gpu
    from ..spec.host import detect_host

    found = detect_host()
    host, console = found.host, screen()
    features = sorted(host.features & {f for name in spec_names() for f in load_spec(name).cpu_features})
    caches = ", ".join(
        f"{name} {_bytes(size) if size else 'unknown'}"
        for name, size in (("L1", host.l1_bytes), ("L2", host.l2_bytes), ("L3", host.l3_bytes))
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("hardware", _title(found.spec))
    table.add_row("processor", cell(f"{host.cpu} ({host.machine}; LLVM calls it {host.llvm_cpu or 'nothing'})"))
    table.add_row("cores", f"{host.physical_cores} ({host.logical_cpus} logical)")
    table.add_row("caches", caches)
    table.add_row("features", f"{' '.join(features)}  (from {host.source})")
    for index, reason in enumerate(found.reasons):
        table.add_row("" if index else "why", cell(reason))
    for note in found.notes:
        table.add_row("note", cell(note))
    gpu = detect_gpu()
    if gpu is not None:
        table.add_row("GPU", cell(f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB"))
        table.add_row("", cell(gpu.fit()))
        if gpu.spec is not None:
            table.add_row("", cell(f"--hw {gpu.spec.name} uses it; --hw auto is the processor"))
    console.print(table)
    return 0
