"""Compares the stand-in for TensorRT with the bindings of one version, name by name and parameter by parameter.

    the stand-in's sources -> what it offers -> is it in the bindings' stubs, with the same parameters?
                           -> stubs of its own, against which `bindings_contract.check` checks the project's calls

Only what the stand-in shows counts: names without an underscore. A method may have fewer parameters than the bindings'
one, where those that are missing have defaults, and it may be one of several overloads.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from bindings_stubs import Bindings

PACKAGE = Path(__file__).parents[1] / "stand_in" / "packages" / "tensorrt"

# Of the stand-in's classes, those that the project makes objects of or derives from.
MADE = ("Builder", "Runtime", "OnnxParser", "ILogger", "IProgressMonitor")

Functions = list[ast.FunctionDef]


def offered() -> dict[str, ast.ClassDef]:
    """Return the classes that the stand-in shows, by name."""
    (shown,) = [
        ast.literal_eval(node.value)
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.Assign)
    ]
    found = {
        node.name: node
        for path in sorted(PACKAGE.glob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    return {name: found[name] for name in shown if name != "__version__"}


def members(node: ast.ClassDef) -> dict[str, Functions | None]:
    """Return a class's methods, with all overloads, and None for properties, attributes and members of enumerations."""
    result: dict[str, Functions | None] = {}
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            decorators = {ast.unparse(decorator) for decorator in item.decorator_list}
            if item.name == "__init__":
                # The stand-in's attributes are made here.
                for each in ast.walk(item):
                    if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self":
                        result.setdefault(each.attr, None)
            if any("property" in decorator or "setter" in decorator for decorator in decorators):
                result[item.name] = None
            else:
                result[item.name] = [*(result.get(item.name) or []), item]
        elif isinstance(item, ast.Assign):
            result |= {target.id: None for target in item.targets if isinstance(target, ast.Name)}
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            result[item.target.id] = None
    return result


def is_checked(class_name: str, member: str) -> bool:
    """Whether a member of the stand-in is there for its users."""
    return not member.startswith("_") or (member == "__init__" and class_name in MADE)


def differences(bindings: Bindings, stubs: Path) -> Iterator[str]:
    """Say what the stand-in offers that the bindings do not have, or have otherwise."""
    real = classes_of((stubs / f"{bindings.stubs}.pyi").read_text())
    for name, node in offered().items():
        yield from _class_differences(name, node, real)
        for inner in node.body:
            if isinstance(inner, ast.ClassDef) and name in real:
                there = {each.name: each for each in real[name].body if isinstance(each, ast.ClassDef)}
                yield from _class_differences(inner.name, inner, there)


def classes_of(stubs: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(stubs).body if isinstance(node, ast.ClassDef)}


def _class_differences(name: str, node: ast.ClassDef, real: dict[str, ast.ClassDef]) -> Iterator[str]:
    if name not in real:
        yield f"{name}: no such class"
        return
    there = members(real[name])
    for member, ours in members(node).items():
        if not is_checked(name, member):
            continue
        if member not in there:
            yield f"{name}.{member}: the bindings have none"
            continue
        theirs = there[member]
        if (ours is None) != (theirs is None):
            yield f"{name}.{member}: a method in one, none in the other"
        elif ours and theirs and not any(_fits(one, other) for one in ours for other in theirs):
            yield f"{name}.{member}({', '.join(_names(ours[0]))}): the bindings have {list(map(_names, theirs))}"


def _names(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)][1:]


def _fits(ours: ast.FunctionDef, theirs: ast.FunctionDef) -> bool:
    """Whether every call that the stand-in takes is one that the bindings take, and means the same."""
    own, names = _names(ours), _names(theirs)
    needed = len(names) - len(theirs.args.defaults)
    is_optional = len(own) - len(ours.args.defaults)
    return own == names[: len(own)] and needed <= len(own) and is_optional >= needed


# --- The stand-in as bindings of its own ---

STAND_IN = Bindings(name="stand_in", module="tensorrt")


def write_own_stubs(folder: Path) -> None:
    """Write stubs of the stand-in, in which its classes show what they offer and nothing else."""
    tree = ast.Module(body=[*offered().values()], type_ignores=[])
    for node in tree.body:
        _only_signatures(node)
    head = "import enum\nfrom collections.abc import Iterator, Sequence\nfrom typing import Any, overload\n"
    text = f"{head}\n__version__: str\n\n{ast.unparse(ast.fix_missing_locations(tree))}\n"
    (folder / f"{STAND_IN.stubs}.pyi").write_text(text)


def _only_signatures(node: ast.ClassDef) -> None:
    # What counts objects is no part of it.
    node.bases = [base for base in node.bases if ast.unparse(base) != "Counted"]
    body: list[ast.stmt] = []
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            _only_signatures(item)
        if isinstance(item, ast.FunctionDef):
            if item.name == "__init__":
                body += _attributes(item)
                if node.name not in MADE:
                    continue
            elif item.name.startswith("_") and not item.name.startswith("__"):
                continue
            item.body = [ast.Expr(ast.Constant(...))]
        body.append(item)
    node.body = body


def _attributes(function: ast.FunctionDef) -> list[ast.stmt]:
    """Return annotations of the attributes that a constructor makes and that are no secret."""
    found: list[ast.stmt] = []
    for item in function.body:
        target = item.target if isinstance(item, ast.AnnAssign) else getattr(item, "targets", [None])[0]
        if isinstance(target, ast.Attribute) and not target.attr.startswith("_"):
            annotation = item.annotation if isinstance(item, ast.AnnAssign) else _type_of(item.value, function)  # type: ignore[attr-defined]
            found.append(ast.AnnAssign(ast.Name(target.attr), annotation, None, 1))
    return found


def _type_of(value: ast.expr, function: ast.FunctionDef) -> ast.expr:
    if isinstance(value, ast.Constant):
        return ast.Name(type(value.value).__name__)
    if isinstance(value, ast.Name):
        return next(each.annotation for each in function.args.args if each.arg == value.id and each.annotation)
    assert isinstance(value, ast.Attribute), ast.unparse(value)
    return value.value  # a member of an enumeration
