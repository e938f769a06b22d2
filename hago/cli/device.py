"""``hago device``: the machines in devices.yaml, and what they really are."""

from __future__ import annotations

import argparse
from typing import Any

from ..visible import cell, visible
from .screen import screen


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``device``."""
    parser = subparsers.add_parser("device", help="list the devices, check one", description=__doc__)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_file = {"metavar": "FILE", "default": None, "help": "default: devices.yaml in this folder"}
    listed = actions.add_parser("list", help="name, spec and address of every device")
    listed.add_argument("--file", **add_file)
    listed.set_defaults(run=_list)
    check = actions.add_parser("check", help="connect to a device, and hold it against its spec")
    check.add_argument("name", metavar="NAME", help="a name in the file, or local")
    check.add_argument("--file", **add_file)
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
    from ..device.check import check_device
    from ..device.config import find_device

    finding = check_device(find_device(arguments.name, arguments.file))
    width = max(len(name) for name, _ in finding.facts)
    for name, value in finding.facts:
        print(visible(f"{name:{width}}  {value}"))
    for problem in finding.problems:
        print(visible(f"wrong: {problem}"))
    print("good: it is what its spec says" if finding.good else "this device is not what its spec says")
    return 0 if finding.good else 1
