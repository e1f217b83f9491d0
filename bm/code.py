"""What the code behind a result does, as a hash: everything that a function reaches, and nothing else.

From a function's definition we follow the names in it: to definitions of its own module, through imports (those within
functions as well) to definitions of other modules, and on from there. Nothing is imported for this; the files are read.
What counts is the meaning of a definition, not its formatting, comments or docstrings. A user's own modules are
followed like ours. An installed package counts by its version, without the part that says what it was built for
(`+cu128`). A module that is reached also counts with what it does when it is imported. A module that asks where its
file is counts with all files of its folder, since it reads or runs them.

`INFRASTRUCTURE` is left out: it reads settings, which count by their values, keeps files, and talks.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path

INFRASTRUCTURE = ("bm.code", "bm.config", "bm.errors", "bm.origin", "bm.progress", "bm.rooms", "bm.store", "bm.track")
"""Modules, with all within them, that cannot change what a result is."""
TALKING = ("pydantic", "rich")
"""Packages that cannot either."""
INSTALLED = {"site-packages", "dist-packages"}
IMPORT = "<import>"
"""In the place of a name: what a module does when it is imported."""
Importing = ast.Import | ast.ImportFrom
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """A source file, read and not imported."""

    name: str
    file: Path
    bound: Mapping[str, list[ast.stmt]]
    """Its statements by the names that they bind."""
    effects: list[ast.stmt]
    """Statements that bind no name, and imports whose names are never used: what happens when it is imported."""

    def definition(self, qualname: str) -> ast.stmt | None:
        """A function or class, perhaps within others (`Stages.distill.build`)."""
        first, *inner = qualname.split(".")
        here = next(iter(self.bound.get(first, ())), None)
        for name in inner:
            within = ast.walk(here) if here else ()
            here = next((n for n in within if isinstance(n, Definition) and n.name == name and n is not here), None)
        return here

    def defines(self, name: str) -> bool:
        """Whether a name is bound by anything but an import."""
        return name in self.bound and self.imported(name) is None

    def imported(self, name: str) -> str | None:
        """What a name is of another module, `module:name`, if an import binds it."""
        outside = (s for s in self.bound.get(name, ()) if not isinstance(s, Definition))
        nodes = (node for statement in outside for node in ast.walk(statement) if isinstance(node, Importing))
        return next((names[name] for node in nodes if name in (names := _imports(node, self))), None)


@cache
def code_version(entries: tuple[str, ...]) -> str:
    """Hash of what some functions reach, each `module:name`, or `module:Class.method.inner`."""
    total = hashlib.sha256()
    for line in sorted(set[str]().union(*map(_reached, entries))):
        total.update(line.encode() + b"\0")
    return total.hexdigest()[:16]


def parameters(target: str) -> list[str] | None:
    """The names of the parameters of `module:name`, which is not imported; None if it is no function in Python."""
    passed = set[str]()
    while target not in passed:  # through the imports of packages that pass it on
        passed.add(target)
        module, name = _found(target)
        node = module.definition(name) if module else None
        if module and isinstance(node, ast.FunctionDef):
            return [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        target = (module.imported(name) if module else None) or target
    return None


@cache
def _reached(entry: str) -> frozenset[str]:
    """A line for each definition, file and package that an entry reaches."""
    lines, ahead = _read(entry, exact=True)
    reached, passed = set(lines), {entry}
    pending = list(ahead)
    while pending:
        name = pending.pop()
        if name not in passed:
            passed.add(name)
            lines, ahead = _read(name)
            reached |= lines
            pending += ahead
    return frozenset(reached)


@cache
def _read(name: str, exact: bool = False) -> tuple[frozenset[str], frozenset[str]]:
    """What `module:name` is, in lines, and the names that it refers to; exact: not all of the class that it is in."""
    package = name.partition(":")[0].partition(".")[0]
    module, inner = _found(name) if _followed(package) else (None, "")
    if module is None:
        return frozenset(_versions(package)), frozenset()
    if any(f"{module.name}.".startswith(f"{part}.") for part in INFRASTRUCTURE):
        return frozenset(), frozenset()
    lines, more = set[str](), {f"{module.name}:{IMPORT}"}
    if inner == IMPORT:
        statements, above = module.effects, module.name.rpartition(".")[0]
        more = {f"{above}:{IMPORT}"} if above else set()
    elif target := module.imported(inner.split(".")[0]):
        return frozenset(), frozenset({_within(target, inner.partition(".")[2]), *more})
    elif exact and (definition := module.definition(inner)):
        statements = [definition]
    else:
        everything = [binding for bound in module.bound.values() for binding in bound]
        statements = module.bound.get(inner.split(".")[0], everything)
    for statement in statements:
        if not isinstance(statement, Importing):
            lines.add(f"{module.name} {_meaning(statement)}")
        more |= set(_references(statement, module))
        if (module.file.parent / "__init__.py").exists() and "__file__" in _names(statement):
            files, functions = _beside(module.file.parent)
            lines |= {f"{module.name} {line}" for line in files}
            more |= set(functions)
    return frozenset(lines), frozenset(more)


def _references(statement: ast.stmt, module: Module) -> Iterator[str]:
    """The names that a statement refers to, by its own imports, by its module's, and in its module."""
    nodes = list(ast.walk(statement))
    local = {n: to for node in nodes if isinstance(node, Importing) for n, to in _imports(node, module).items()}
    roots = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(rf"{module.name.split('.')[0]}(\.\w+)+", node.value):
                yield f"{node.value}:"  # a module that is started or imported by its name
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            root, _, rest = _dotted(node).partition(".")
            if root and (target := local.get(root) or module.imported(root)):
                yield _within(target, rest)
            elif root in module.bound:
                yield f"{module.name}:{root}"
        elif isinstance(node, ast.Name) and id(node) not in roots:
            if target := local.get(node.id):
                yield target
            elif node.id in module.bound:
                yield f"{module.name}:{node.id}"
    if isinstance(statement, Importing):
        yield from local.values()


def _within(target: str, rest: str) -> str:
    """A name further within `module:` or `module:name`."""
    return f"{target}{'.' * bool(rest and not target.endswith(':'))}{rest}"


def _dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty if it begins with anything but a name."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def _imports(node: ast.Import | ast.ImportFrom, module: Module) -> dict[str, str]:
    """The names that an import binds, and what each is: `module:` or `module:name`."""
    if isinstance(node, ast.Import):
        return {
            a.asname or a.name.split(".")[0]: f"{a.name if a.asname else a.name.split('.')[0]}:" for a in node.names
        }
    package = module.name.split(".") if module.file.name == "__init__.py" else module.name.split(".")[:-1]
    above = package[: len(package) - node.level + 1] if node.level else []
    origin = ".".join([*above, *([node.module] if node.module else [])])
    return {a.asname or a.name: f"{origin}:{a.name if a.name != '*' else ''}" for a in node.names}


def _found(name: str) -> tuple[Module | None, str]:
    """The source of `module:name`, and the name within it ("" for all); None if it is not followed."""
    path, _, inner = name.partition(":")
    module, parts = _module(path), [part for part in inner.split(".") if part]
    while module and parts and module.imported(parts[0]) in (None, f"{module.name}:{parts[0]}"):
        below = _module(f"{module.name}.{parts[0]}") if not module.defines(parts[0]) else None
        if below is None:
            break
        module, parts = below, parts[1:]
    return module, ".".join(parts)


@cache
def _module(name: str) -> Module | None:
    file = _file(name)
    if file is None:
        return None
    tree = ast.parse(file.read_bytes())
    module = Module(name, file, {}, [])
    bound: dict[str, list[ast.stmt]] = {}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for statement in tree.body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in _names(statement.test):
            continue
        names = set(_binds(statement, module))
        for bound_name in names:
            bound.setdefault(bound_name, []).append(statement)
        passed_on = isinstance(statement, ast.ImportFrom) and (
            file.name == "__init__.py" or statement.module == "__future__"
        )
        unused = isinstance(statement, Importing) and not passed_on and not names & used
        if (not names and not _is_text(statement)) or unused:
            module.effects.append(statement)
    return Module(name, file, bound, module.effects)


def _binds(statement: ast.stmt, module: Module) -> Iterator[str]:
    """The names that a statement binds in its module."""
    if isinstance(statement, Definition):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, Importing):
            yield from _imports(node, module)
        elif isinstance(node, Definition):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@cache
def _followed(package: str) -> bool:
    """Whether a package is ours or the user's, and not installed."""
    if package in sys.stdlib_module_names:
        return False
    return package == "bm" or not any(INSTALLED & set(place.parts) for place in _places(package))


@cache
def _places(package: str) -> list[Path]:
    """The folders of a package, or the file of a module that is none."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    origin = [Path(spec.origin)] if spec and spec.origin else []
    return [Path(place) for place in (spec.submodule_search_locations or [])] or origin if spec else []


def _file(name: str) -> Path | None:
    """The source of a module."""
    package, *parts = name.split(".")
    places = [place for place in _places(package) if package]
    below = [place.joinpath(*parts) for place in places]
    files = [file for place in below for file in (place / "__init__.py", place.with_name(f"{place.name}.py"))]
    files += [place for place in places if place.suffix == ".py" and not parts]
    return next((file for file in files if file.is_file()), None)


@cache
def _versions(package: str) -> tuple[str, ...]:
    """What is installed that has a package, with its version; nothing for Python's own."""
    if not package or package in sys.stdlib_module_names or package in TALKING:
        return ()
    try:
        return (f"{package} {version(package).partition('+')[0]}",)
    except PackageNotFoundError:  # another name: yaml is of PyYAML
        having = [d for d in distributions() if f"\n{package}/" in f"\n{d.read_text('RECORD')}"]
        return tuple(f"{d.name} {d.version.partition('+')[0]}" for d in having)


@cache
def _beside(folder: Path) -> tuple[list[str], list[str]]:
    """The files of a folder, a line each; and the functions that lm-eval's YAML among them names."""
    lines, functions = [], []
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or "__pycache__" in file.parts:
            continue
        python = file.suffix == ".py"
        said = _meaning(ast.parse(file.read_bytes())).encode() if python else file.read_bytes()
        lines.append(f"{file.relative_to(folder)} {hashlib.sha256(said).hexdigest()}")
        if file.suffix == ".yaml":
            named = re.findall(r"!function\s+([\w.]+)\.(\w+)", file.read_text())
            functions += [f"{module}:{name}" for module, name in named]
    return lines, functions


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _meaning(node: ast.AST) -> str:
    """Code as its syntax tree, without docstrings."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Module | Definition):
            inner.body = [part for part in inner.body if not _is_text(part)]
    return ast.dump(node)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
