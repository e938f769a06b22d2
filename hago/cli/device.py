"""``hago device``: lists the machines in devices.yaml and checks them."""

from __future__ import annotations

import argparse
from typing import Any

from ..visible import cell, visible
from .common_arguments import leaf
from .screen import screen

_DESCRIPTION = "Lists the machines in devices.yaml, and compares one with its spec."


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``device``."""
    parser = subparsers.add_parser("device", help="list the devices, or check one", description=_DESCRIPTION)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listed = leaf(actions, "list", "show name, spec and address of every device")
    check = leaf(actions, "check", "connect to a device and compare it with its spec")
    check.add_argument("name", metavar="NAME", help="a name in the devices file, or local")
    for command in (listed, check):
        command.add_argument("--file", metavar="FILE", help="the devices file (default: devices.yaml in this folder)")
    listed.set_defaults(run=_list)
    check.set_defaults(run=_check)


def _list(arguments: argparse.Namespace) -> int:
    from rich.table import Table

    from ..device.config import DEFAULT_FILE, load_devices

    table = Table("name", "spec", "address", box=None, header_style="bold")
    for device in load_devices(arguments.file or DEFAULT_FILE).values():
        table.add_row(cell(device.name), cell(device.spec), cell(device.address))
    screen().print(table)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from ..device.config import find_device
    from ..device.spec_check import check_device

    finding = check_device(find_device(arguments.name, arguments.file))
    width = max(len(name) for name, _ in finding.facts)
    for name, value in finding.facts:
        print(visible(f"{name:{width}}  {value}"))
    for problem in finding.problems:
        print(visible(f"wrong: {problem}"))
    print("good: the device matches its spec" if finding.good else "the device does not match its spec")
    return 0 if finding.good else 1
