"""A digest of the code that a page uses: of the definitions of the package that it reaches, and of nothing else there.

A definition is a function, a class or an assignment at the top level of a module. A page reaches what its code names,
and a definition reaches what its own code names: to call it, hand it on or look at it, as a default, a decorator or a
base class. Imports are followed to where a name is defined. A class is reached as a whole; with the first definition of
a module, so are the statements there that bind nothing, such as a registration; and a module that is named without
saying what of it, with all that it binds. A file that is no Python, such as the weights, is reached where a string is
its name or its folder's.

Not reached is what only an annotation names, since that runs nothing (its text does count). So a method called on an
argument counts where its class is named, as whoever makes the object must. The limits: code kept in strings, a name
looked up by a string in a module that is not named beside it, a module imported only for what that does, and a class
that another library finds by itself.

What is digested are syntax trees: comments, docstrings, layout and the module that a definition stands in do not count.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

Name = tuple[str, str]  # a module, and what is bound at its top level; "" for its statements that bind nothing


class Package:
    """A package, read once for the digests of many pages: what each of its definitions is, and what it names."""

    def __init__(self, folder: Path) -> None:
        self.modules: set[str] = set()
        self.definitions: dict[Name, list[ast.stmt]] = defaultdict(list)
        self.imports: dict[Name, set[str]] = defaultdict(set)  # anywhere in a module, within a function too
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            self.modules.add(module)
            tree = ast.parse(path.read_bytes())
            for local, origin in imported(tree, module if is_package else module.rpartition(".")[0]):
                self.imports[module, local].add(origin)
            for statement in tree.body:
                for name in () if is_left_out(statement) else bound(statement):
                    self.definitions[module, name].append(statement)
        others = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".md")]
        files = {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in others}
        self.uses: dict[Name, set[Name]] = {}
        self.texts: dict[Name, set[str]] = {}
        for name in {*self.definitions, *self.imports}:
            statements, origins = self.definitions.get(name, []), self.imports.get(name, set())
            targets = {target for origin in origins for target in self._at(origin)}
            strings = {node.value for statement in statements for node in ast.walk(statement) if is_text(node)}
            self.uses[name] = targets.union(*(self._named(name[0], statement) for statement in statements))
            self.texts[name] = {canonical(statement) for statement in statements}
            self.texts[name] |= {f"{path} {digest}" for path, digest in files.items() if strings & {*path.parts}}
            if not targets:  # another library's
                self.texts[name] |= {f"{name[1]} is {origin}" for origin in origins}

    def digest(self, script: Path) -> str:
        """The digest for a page, from what its script names."""
        texts = {text for name in self.reached(script) for text in self.texts.get(name, [f"{name[1]} is missing"])}
        return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()

    def reached(self, script: Path) -> set[Name]:
        """What a page reaches. A name that the package does not have, as an old page may use, is among it."""
        tree = ast.parse(script.read_bytes())
        origins = list(imported(tree, ""))
        paths = [
            ".".join([origin, *rest]) for first, *rest in chains(tree) for name, origin in origins if name == first
        ]
        found: set[Name] = set()
        waiting = {name for path in paths for name in self._at(path)}
        while waiting:
            found |= waiting
            beside = {(module, "") for module, _ in waiting if (module, "") in self.definitions}
            waiting = beside.union(*(self.uses.get(name, ()) for name in waiting)) - found
        return found

    def _named(self, module: str, code: ast.stmt) -> Iterator[Name]:
        for first, *rest in chains(code):
            if (module, first) in self.definitions:
                yield module, first
            for origin in self.imports.get((module, first), ()):
                yield from self._at(".".join([origin, *rest])) or [(module, first)]

    def _at(self, path: str) -> list[Name]:
        """What is at a dotted path such as ``decodeloop.stream``; nothing if that leads out of the package."""
        module, rest = path, ""
        while module not in self.modules:
            if not module:
                return []
            module, _, rest = module.rpartition(".")
        return [(module, rest)] if rest else [name for name in {*self.definitions, *self.imports} if name[0] == module]


def imported(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """What the imports of a module bind: each name, and the dotted path of what it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield (name.asname, name.name) if name.asname else (name.name.partition(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (above, node.module) if part)
            yield from ((name.asname or name.name, f"{origin}.{name.name}") for name in node.names)


def bound(statement: ast.stmt) -> set[str]:
    """What a statement at the top level of a module binds; "" is among it where the statement may do more than that."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    inside = list(ast.walk(statement))
    names = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.name for node in inside if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    only_binds = names and isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign)
    return names if only_binds else {*names, ""}


def chains(node: ast.AST) -> Iterator[list[str]]:
    """The names in a piece of code, each with what is looked up on it: ``["a", "b"]`` for ``a.b``; no annotations."""
    looked_up = []
    while isinstance(node, ast.Attribute):
        looked_up.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        yield [node.id, *looked_up]
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from chains(child)


def canonical(node: object) -> str:
    """Code as text, without docstrings and imports, the same from each version of Python, as ``ast.dump`` is not."""
    if isinstance(node, list):
        return f"[{','.join(canonical(child) for child in node if not is_left_out(child))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, []) and name != "kind"]
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some with an empty text
        fields = [("values", [part for part in node.values if not (is_text(part) and part.value == "")])]
    return f"{type(node).__name__}({','.join(f'{name}={canonical(value)}' for name, value in fields)})"


def is_left_out(node: object) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.Expr) and is_text(node.value))


def is_text(node: object) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
