"""Reports what makes the code hard to change; fails where modules import each other in a circle.

    python scripts/structure.py         exit code 1 if there is a circle

- circles of imports of any kind: of modules, inside functions ("lazy"), and for types alone ("type")
- functions and methods with more than 8 parameters (``self`` is not counted)
- classes and files whose name occurs twice
- public classes, functions and methods without a docstring; not counted are methods that a protocol or a base class
  documents, and the tests of a suite, whose names are sentences
"""

from __future__ import annotations

import ast
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HAGO = {"hago": ROOT / "hago", "hago.search": ROOT / "search"}
MOST_PARAMETERS = 8

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """One source file. ``name`` is dotted; ``is_package`` marks an ``__init__.py``."""

    name: str
    path: Path
    is_package: bool
    tree: ast.Module = field(repr=False)

    @property
    def lines(self) -> int:
        """Lines of its text."""
        return len(self.path.read_text(encoding="utf-8").splitlines())

    def absolute(self, node: ast.ImportFrom) -> str:
        """The module that ``from X import ...`` names, with leading dots resolved."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*base, node.module] if node.module else base)


def read_modules(packages: Mapping[str, Path]) -> dict[str, Module]:
    """The modules below these folders, by name; linked folders are not entered."""
    found = {}
    for package, folder in packages.items():
        for place, folders, files in os.walk(folder):
            folders.sort()
            for file in sorted(files):
                path = Path(place) / file
                if path.suffix == ".py":
                    parts = [package, *path.relative_to(folder).with_suffix("").parts]
                    is_package = parts[-1] == "__init__"
                    name = ".".join(parts[:-1] if is_package else parts)
                    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
                    found[name] = Module(name, path, is_package, tree)
    return found


def imports(module: Module, names: Mapping[str, object]) -> dict[str, str]:
    """What it imports of ``names`` -> "module", "lazy" or "type": the first of these that holds."""
    found: dict[str, str] = {}
    order = ("module", "lazy", "type")
    for node, kind in _statements(module.tree, "module"):
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.absolute(node)
            # ``from . import name`` is a module where there is one, else something of the package itself.
            targets = [full if (full := f"{base}.{alias.name}") in names else base for alias in node.names]
        for target in targets:
            if target in names and target != module.name:
                found[target] = min(kind, found.get(target, kind), key=order.index)
    return found


def _statements(node: ast.AST, kind: str) -> Iterator[tuple[ast.AST, str]]:
    """All nodes below, each with the kind of import that one there would be."""
    for child in ast.iter_child_nodes(node):
        inner = kind
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            inner = "type"
        elif isinstance(child, _FUNCTIONS) and kind == "module":
            inner = "lazy"
        yield child, inner
        yield from _statements(child, inner)


def circles(edges: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """Groups of modules each of which reaches all others of its group by imports."""
    reached = {name: _reached(name, edges) for name in edges}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in edges}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reached(start: str, edges: Mapping[str, Mapping[str, str]]) -> set[str]:
    """What can be reached from a module by imports; itself only by way of others."""
    seen: set[str] = set()
    todo = list(edges[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += edges[name]
    return seen


def long_signatures(module: Module) -> Iterator[tuple[int, str]]:
    """(parameters, name) of functions that take too many."""
    for node in ast.walk(module.tree):
        if isinstance(node, _FUNCTIONS):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len(every) - (bool(every) and every[0].arg in ("self", "cls"))
            if count > MOST_PARAMETERS:
                yield count, f"{module.name}.{node.name}"


def twice(named: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Name -> the modules that have it, where these are several."""
    places = defaultdict(list)
    for name, module in named:
        places[name].append(module)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def undocumented(modules: Mapping[str, Module]) -> Iterator[str]:
    """Public names without a docstring."""
    classes = {node.name: node for m in modules.values() for node in ast.walk(m.tree) if isinstance(node, ast.ClassDef)}
    promised = {name for node in classes.values() if "Protocol" in _bases(node) for name in _documented(node)}
    for module in modules.values():
        for node in module.tree.body:
            if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                yield f"{module.name}.{node.name}"
            if isinstance(node, ast.ClassDef):
                inherited = promised | {name for base in _ancestors(node, classes) for name in _documented(base)}
                yield from (
                    f"{module.name}.{node.name}.{method.name}"
                    for method in _methods(node)
                    if not ast.get_docstring(method) and method.name not in inherited
                )


def _ancestors(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    for base in (_bases(node) & classes.keys()) - {node.name}:
        yield classes[base]
        yield from _ancestors(classes[base], classes)


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    functions = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    public = [item for item in functions if not item.name.startswith(("_", "test_"))]
    return [item for item in public if not any("setter" in ast.dump(d) for d in item.decorator_list)]


def _documented(node: ast.ClassDef) -> set[str]:
    return {method.name for method in _methods(node) if ast.get_docstring(method)}


def _bases(node: ast.ClassDef) -> set[str]:
    return {base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases}


def _section(title: str, lines: list[str]) -> None:
    print(f"{title}: {len(lines)}")
    for line in lines:
        print(f"  {line}")


def main(packages: Mapping[str, Path] = HAGO) -> int:
    """Prints the report; 1 if there is a circle."""
    modules = read_modules(packages)
    edges = {name: imports(module, modules) for name, module in modules.items()}
    print(f"{len(modules)} modules, {sum(module.lines for module in modules.values()):,} lines")
    found = circles(edges)
    _section("circles", [_told(circle, edges) for circle in found])
    signatures = sorted((row for m in modules.values() for row in long_signatures(m)), reverse=True)
    _section(f"functions with more than {MOST_PARAMETERS} parameters", [f"{n} {name}" for n, name in signatures])
    named = ((n.name, m.name) for m in modules.values() for n in ast.walk(m.tree) if isinstance(n, ast.ClassDef))
    _section("class names defined more than once", [f"{k}: {', '.join(v)}" for k, v in twice(named).items()])
    files = ((m.path.name, m.name) for m in modules.values() if not m.is_package)
    _section("file names in more than one folder", [f"{k}: {', '.join(v)}" for k, v in twice(files).items()])
    _section("public names without a docstring", sorted(undocumented(modules)))
    return 1 if found else 0


def _told(circle: list[str], edges: Mapping[str, Mapping[str, str]]) -> str:
    """Its modules, and the imports that are not of modules: to cut one of these is easiest."""
    inner = [
        f"{name} -> {other} ({kind})"
        for name in circle
        for other, kind in edges[name].items()
        if other in circle and kind != "module"
    ]
    return ", ".join(circle) + "".join(f"\n    {line}" for line in inner)


if __name__ == "__main__":
    sys.exit(main())
