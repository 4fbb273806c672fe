"""Checks every use of TensorRT in the sources against the bindings of one version, without TensorRT or a GPU.

    sources -> copies in which `trt.` means the stubs -> mypy -> its errors, and a look at every expression's type

The project's functions take TensorRT's module as a parameter `trt`, or keep it as `self.trt`; those that
only TensorRT for RTX can run call it `trt_rtx`. mypy alone would let much pass, because whatever is `Any`
may do anything, so the types that it found are looked through: nothing of TensorRT may become `Any`, and
nothing that is `Any` may be used as if it were TensorRT's.

Not checked: whether TensorRT returns None where its signatures promise an object, and whether a value of
the right type is accepted.
"""

import ast
import dataclasses
import itertools
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bindings_stubs import RTX, Bindings, made_bindings, write_stubs
from mypy import build, nodes, types
from mypy.argmap import map_actuals_to_formals
from mypy.errors import CompileError
from mypy.modulefinder import BuildSource
from mypy.options import Options
from mypy.traverser import all_return_statements

# Packages that may use TensorRT, and what they import.
CHECKED = ("export", "ssd_deploy")
IMPORTED = ("ssd_train",)

# What the module is called in the sources, as a name or an attribute.
MODULE_NAMES = ("trt", "_trt", "trt_rtx", "_trt_rtx")

# What the package is called -> as what it is imported for annotations.
IMPORTS = {"tensorrt": "trt", "tensorrt_rtx": "trt_rtx"}

# The same in the copies, where no parameter hides it.
ALIASES = {"trt": "TRT", "trt_rtx": "TRT_RTX"}

# No such module, so that mypy asks nothing of what is only for TensorRT for RTX.
UNCHECKED = "only_for_tensorrt_rtx"

_builds = itertools.count()


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """A use of TensorRT that does not fit the bindings, or that cannot be checked.

    Attributes:
        path: relative to the repository.
        line: from 1.
        problem: what is wrong.
    """

    path: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}"


@dataclasses.dataclass(frozen=True)
class Use:
    """A member of TensorRT's module, or of an object or class of TensorRT, in the sources.

    Attributes:
        path: relative to the repository.
        line: from 1.
        member: `set_flag` for instance.
    """

    path: str
    line: int
    member: str


def read_sources(repository: Path) -> dict[str, str]:
    """Return the text of every module of the packages that are checked or imported by those, by its path."""
    paths = sorted(path for package in (*CHECKED, *IMPORTED) for path in (repository / package).rglob("*.py"))
    return {path.relative_to(repository).as_posix(): path.read_text() for path in paths}


def check(sources: dict[str, str], bindings: Bindings, stubs: Path) -> tuple[list[Finding], list[Use]]:
    """Return what is wrong in the sources for these bindings, and all uses of TensorRT that were looked at.

    Args:
        sources: path relative to the repository -> text, as `read_sources` returns.
        bindings: the version to check against.
        stubs: folder where `write_stubs` wrote its stubs; mypy's cache is kept there too.
    """
    checked = [path for path in sources if path.startswith(tuple(f"{package}/" for package in CHECKED))]
    findings = [finding for path in checked for finding in _convention(path, sources[path])]
    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder)
        for path, text in sources.items():
            (copies / path).parent.mkdir(parents=True, exist_ok=True)
            (copies / path).write_text(_copy_of(text, bindings) if path in checked else text)
        result = _run_mypy(copies, checked, stubs)
        uses = []
        with_tensorrt = set()
        for path in checked:
            look = _Look(path, result.types, bindings)
            look.through(result.files[_module(path)])
            uses += look.uses
            if look.uses or _mentions_module(sources[path]):
                with_tensorrt.add(path)
                findings += [
                    *look.findings,
                    *look.unnamed(),
                    *_counted(path, (copies / path).read_text(), look.members),
                ]
        # A helper elsewhere that takes an object as Any is found where the object is handed over.
        for line in result.errors:
            found = re.fullmatch(r"(.+?):(\d+): error: (.*)", line)
            if found and Path(found[1]).is_absolute() and Path(found[1]).is_relative_to(copies):
                path = Path(found[1]).relative_to(copies).as_posix()
                if path in with_tensorrt:
                    findings.append(Finding(path, int(found[2]), found[3]))
    return sorted(set(findings)), uses


# --- Copies ---


def _copy_of(text: str, bindings: Bindings) -> str:
    """Return a module with the same lines where TensorRT's module is a global name, and no comment hides an error."""
    modules = {"trt": bindings.stubs, "trt_rtx": bindings.stubs if bindings.is_rtx else UNCHECKED}
    for name, alias in ALIASES.items():
        text = re.sub(rf"(?<![\w.])(?:self\._?)?{name}(?=\s*\.\s*[A-Za-z_])", alias, text)
    text = re.sub(r"(?<![\w.])load_bindings\([^()\n]*\)(?=\s*\.\s*[A-Za-z_])", ALIASES["trt"], text)
    text = re.sub(r"#\s*(type:\s*ignore|mypy:)", "# ", text)
    imports = "".join(f"import {module} as {ALIASES[name]}\n" for name, module in modules.items())
    # A text of its own for each build: what mypy takes from its cache has no types to look at.
    return f"{text}\n{imports}# {next(_builds)} {id(text)}\n"


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _mentions_module(text: str) -> bool:
    """Whether a module has a name for TensorRT's module, or an annotation with one, or imports it."""
    for node in ast.walk(ast.parse(text)):
        if _called(node) in (*MODULE_NAMES, "load_bindings") or (
            isinstance(node, ast.arg) and node.arg in MODULE_NAMES
        ):
            return True
        if isinstance(node, ast.alias) and node.name.split(".")[0] in IMPORTS:
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in IMPORTS:
            return True
        text_of = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if re.search(rf"\b({'|'.join(MODULE_NAMES)})\.[A-Za-z_]", text_of):
            return True
    return False


# --- What the types cannot tell: how the module comes into the sources ---


def _convention(path: str, text: str) -> Iterator[Finding]:
    """Find TensorRT's module under a name by which its uses would not be found."""
    tree = ast.parse(text)
    kept: set[int] = set()
    for node in ast.walk(tree):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        # In a statement of its own the module is not kept at all.
        if isinstance(node, ast.Expr | ast.Attribute) or all(_called(target) in MODULE_NAMES for target in targets):
            kept.add(id(getattr(node, "value", None)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] in IMPORTS and name.asname != IMPORTS.get(name.name):
                    yield Finding(path, node.lineno, f"import {name.name} as `{IMPORTS[name.name.split('.')[0]]}`")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in IMPORTS:
            yield Finding(path, node.lineno, f"import {node.module} as a whole, and use its members by `trt.`")
        elif isinstance(node, ast.Call) and _called(node.func) == "load_bindings" and id(node) not in kept:
            yield Finding(
                path, node.lineno, "what load_bindings returns must be called `trt`, or its uses are not checked"
            )


def _called(node: ast.AST | None) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


# --- Types ---


def _run_mypy(copies: Path, paths: list[str], stubs: Path) -> build.BuildResult:
    options = Options()
    options.python_version = sys.version_info[:2]
    options.mypy_path = [str(copies), str(stubs)]
    options.cache_dir = str(stubs / "cache")
    options.export_types = True
    options.preserve_asts = True
    options.check_untyped_defs = True
    # Other packages count as unknown, which is quick and takes nothing from TensorRT's types.
    options.ignore_missing_imports = True
    options.python_executable = None
    # pybind11 does not say where TensorRT returns None; with this, the code for that case is checked as well.
    options.strict_optional = False
    options.hide_error_codes = True
    sources = [BuildSource(str(copies / path), _module(path)) for path in paths]
    try:
        return build.build(sources, options)
    except CompileError as error:
        raise RuntimeError("mypy cannot read the copies:\n" + "\n".join(error.messages)) from error


class _Look:
    """Looks at the types in one module."""

    def __init__(self, path: str, types_found: dict[nodes.Expression, types.Type], bindings: Bindings) -> None:
        self.path = path
        self.types = types_found
        self.stubs = bindings.stubs
        self.findings: list[Finding] = []
        self.uses: list[Use] = []
        # Every member of anything, to be compared with the text.
        self.members: Counter[str] = Counter()
        # Members of classes of this project that derive from one of TensorRT's.
        self.own_members: set[str] = set()
        self._of_any: list[tuple[nodes.MemberExpr, str]] = []
        self._module_names: list[nodes.RefExpr] = []
        self._module_allowed: set[int] = set()
        # Resolved by mypy, which keeps no type of them.
        self._typed: set[int] = set()

    def through(self, module: nodes.MypyFile) -> None:
        """Look at a whole module, once."""
        for node in _walk(module):
            if isinstance(node, nodes.ClassDef):
                self._class(node)
            elif isinstance(node, nodes.FuncDef):
                self._function(node)
            elif isinstance(node, nodes.AssignmentStmt):
                self._assignment(node)
            elif isinstance(node, nodes.CallExpr):
                self._call(node)
            elif isinstance(node, nodes.MemberExpr | nodes.SuperExpr):
                self.members[node.name] += 1
            if isinstance(node, nodes.MemberExpr):
                self._member(node)
            if _is_name_of_module(node):
                self._module_names.append(node)

    def unnamed(self) -> Iterator[Finding]:
        """Find the uses that types do not reach: of unknown values, and of the module under another name."""
        for node, problem in self._of_any:
            # `log.warnings.append`, where our own class of the log has the warnings
            outer = node.expr.name if isinstance(node.expr, nodes.MemberExpr) else ""
            if not {node.name, outer} & self.own_members:
                yield Finding(self.path, node.line, problem)
        for name in self._module_names:
            if id(name) not in self._module_allowed:
                problem = f"`{name.name}` may be used as `{name.name}.member`, or handed to a parameter of that name"
                yield Finding(self.path, name.line, problem)

    def _report(self, node: nodes.Context, problem: str) -> None:
        self.findings.append(Finding(self.path, node.line, problem))

    def _class(self, node: nodes.ClassDef) -> None:
        self._typed |= {id(base) for base in node.base_type_exprs}
        mro = node.info.mro
        if not any(base.module_name == self.stubs for base in mro):
            return
        own = [base for base in mro if base.module_name not in (self.stubs, "builtins")]
        written = {name for base in own for name in base.names}
        self.own_members |= written
        for base in mro:
            if base.module_name == self.stubs:
                for name, symbol in base.names.items():
                    if isinstance(symbol.node, nodes.FuncBase) and not name.startswith("_") and name not in written:
                        self._report(node, f"{node.name} does not override {base.name}.{name}")

    def _function(self, node: nodes.FuncDef) -> None:
        signature = types.get_proper_type(node.type)
        if not isinstance(signature, types.CallableType) or not _is_any(signature.ret_type):
            return
        for statement in all_return_statements(node):
            if statement.expr is not None and self._is_held_in(statement.expr):
                self._report(statement, f"{node.name} returns an object of TensorRT as Any; say its type")

    def _assignment(self, node: nodes.AssignmentStmt) -> None:
        for target in node.lvalues:
            if isinstance(target, nodes.NameExpr | nodes.MemberExpr) and target.name in MODULE_NAMES:
                self._module_allowed |= {id(target), id(node.rvalue)}
            declared = (
                target.node.type if isinstance(target, nodes.RefExpr) and isinstance(target.node, nodes.Var) else None
            )
            if declared is None and isinstance(target, nodes.MemberExpr):
                declared = self.types.get(target)
            if _is_any(declared) and self._is_held_in(node.rvalue):
                self._report(node, "an object of TensorRT is kept as Any; say its type")

    def _call(self, node: nodes.CallExpr) -> None:
        name = getattr(node.callee, "name", "a function")
        if name in ("getattr", "setattr", "hasattr", "vars", "dir"):
            if any(self._is_tensorrt(argument) or _is_name_of_module(argument) for argument in node.args):
                self._report(node, f"{name} of something of TensorRT cannot be checked; name the member")
            return
        callee = types.get_proper_type(self.types.get(node.callee))
        of_tensorrt = isinstance(node.callee, nodes.MemberExpr) and self._is_tensorrt(node.callee.expr)
        if isinstance(callee, types.Overloaded) and of_tensorrt:
            return  # mypy has chosen one, and pybind11 describes every overload
        if not isinstance(callee, types.CallableType):
            return
        formals = map_actuals_to_formals(
            node.arg_kinds,
            node.arg_names,
            callee.arg_kinds,
            callee.arg_names,
            lambda index: types.AnyType(types.TypeOfAny.special_form),
        )
        for formal, actuals in enumerate(formals):
            if of_tensorrt and _is_any(callee.arg_types[formal]):
                self._report(node, f"the bindings do not tell the types of {name}'s arguments")
            for actual in actuals:
                argument = node.args[actual]
                if callee.arg_names[formal] in MODULE_NAMES:
                    self._module_allowed.add(id(argument))
                # Python's own functions give back what they are given, as Any at the worst.
                elif self._is_ours(callee) and _is_unknown(callee.arg_types[formal]) and self._is_held_in(argument):
                    self._report(argument, f"{name} takes an object of TensorRT as Any; say its type")

    def _member(self, node: nodes.MemberExpr) -> None:
        base, found = node.expr, self.types.get(node)
        if isinstance(base, nodes.MemberExpr) and (found is not None or id(node) in self._typed):
            self._typed.add(id(base))  # of module.Class.member mypy keeps the last type alone
        if self._is_tensorrt(base):
            if self._is_own(base, node.name):
                return
            self.uses.append(Use(self.path, node.line, node.name))
            if id(node) in self._typed:
                return
            if found is None:
                self._report(node, f"{node.name} is in code that is not checked, because it is never reached")
            elif _is_any(found):
                self._report(node, f"the bindings do not tell the type of {node.name}")
            return
        known = self.types.get(base)
        if known is None:
            if isinstance(base, nodes.NameExpr | nodes.MemberExpr | nodes.CallExpr) and not _is_reference(base):
                self._of_any.append((node, f"{node.name} is in code that is not checked, because it is never reached"))
        elif _is_unknown(known):
            self._of_any.append(
                (node, f"{node.name} of a value of unknown type, which could be TensorRT's; say its type")
            )

    def _is_module(self, node: nodes.Expression) -> bool:
        return isinstance(node, nodes.RefExpr) and isinstance(node.node, nodes.MypyFile) and node.fullname == self.stubs

    def _is_tensorrt(self, node: nodes.Expression) -> bool:
        """Whether this is TensorRT's module, one of its classes, or an object of one."""
        return self._is_module(node) or self._is_of_stubs(self.types.get(node), with_classes=True)

    def _is_of_stubs(self, found: types.Type | None, *, with_classes: bool) -> bool:
        found = types.get_proper_type(found)
        if isinstance(found, types.UnionType):
            return any(self._is_of_stubs(item, with_classes=with_classes) for item in found.items)
        if isinstance(found, types.TypeType):
            return with_classes and self._is_of_stubs(found.item, with_classes=True)
        if isinstance(found, types.FunctionLike):
            return (
                with_classes and found.is_type_obj() and self._is_of_stubs(found.items[0].ret_type, with_classes=True)
            )
        return isinstance(found, types.Instance) and any(base.module_name == self.stubs for base in found.type.mro)

    def _is_own(self, base: nodes.Expression, member: str) -> bool:
        """Whether a member belongs to a class of this project that derives from one of TensorRT's."""
        found = types.get_proper_type(self.types.get(base))
        symbol = found.type.get(member) if isinstance(found, types.Instance) else None
        return symbol is not None and (symbol.fullname or self.stubs).split(".")[0] != self.stubs

    def _is_held_in(self, node: nodes.Expression) -> bool:
        return self._is_held(self.types.get(node))

    def _is_held(self, found: types.Type | None) -> bool:
        """Whether a value is or contains an object or class of TensorRT; objects of our own subclasses do not count."""
        found = types.get_proper_type(found)
        if isinstance(found, types.UnionType | types.TupleType):
            return any(self._is_held(item) for item in found.items)
        if isinstance(found, types.Instance):
            return found.type.module_name == self.stubs or any(self._is_held(item) for item in found.args)
        return self._is_of_stubs(found, with_classes=True)

    def _is_ours(self, callee: types.CallableType) -> bool:
        definition = callee.definition
        module = (definition.fullname if definition else "").split(".")[0]
        if not module and callee.is_type_obj():
            module = callee.type_object().module_name.split(".")[0]
        return module in (*CHECKED, *IMPORTED)


def _is_any(found: types.Type | None) -> bool:
    return isinstance(types.get_proper_type(found), types.AnyType)


def _is_unknown(found: types.Type | None) -> bool:
    """Whether a value is Any, and not because it comes from a package that mypy was not shown."""
    found = types.get_proper_type(found)
    while isinstance(found, types.AnyType) and found.source_any is not None:
        found = found.source_any
    return isinstance(found, types.AnyType) and found.type_of_any != types.TypeOfAny.from_unimported_type


def _is_reference(node: nodes.Expression) -> bool:
    """Whether this is a module or class, to which mypy gives no type."""
    return isinstance(node, nodes.RefExpr) and isinstance(node.node, nodes.MypyFile | nodes.TypeInfo)


def _is_name_of_module(node: nodes.Node) -> bool:
    return isinstance(node, nodes.NameExpr | nodes.MemberExpr) and node.name in MODULE_NAMES


def _counted(path: str, copy: str, members: Counter[str]) -> Iterator[Finding]:
    """Compare the members that the text has with those that were looked at."""
    tree = ast.parse(copy)
    for node in ast.walk(tree):  # annotations are resolved by mypy itself
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    written = Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    for name, count in written.items():
        if members[name] < count:
            yield Finding(path, 1, f".{name} is written {count} times, but {members[name]} were looked at")


def _walk(module: nodes.MypyFile) -> Iterator[nodes.Node]:
    """Give all parts of a module; mypy's own visitors are compiled, and cannot be derived from."""
    links = {"node", "info", "analyzed", "original_def", "original_decorators", "def_var", "names", "variable", "var"}
    seen: set[int] = set()
    left: list[object] = [module]
    while left:
        found = left.pop()
        if isinstance(found, list | tuple):
            left += found
        elif isinstance(found, nodes.Node) and id(found) not in seen:
            seen.add(id(found))
            yield found
            bases = type(found).__mro__
            attributes = {name for base in bases for name in getattr(base, "__mypyc_attrs__", vars(base))}
            left += [getattr(found, name, None) for name in attributes - links if not name.startswith("__")]


def main() -> int:
    """Check the repository against the folder of bindings in the first argument, and print what was found."""
    repository = Path(__file__).parents[2]
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else repository / ".bindings")
    found = 0
    with tempfile.TemporaryDirectory() as stubs:
        for bindings in (made_bindings(folder, "10"), made_bindings(folder, "11"), RTX):
            write_stubs(bindings, Path(stubs))
            findings, uses = check(read_sources(repository), bindings, Path(stubs))
            files = len({use.path for use in uses})
            print(f"TensorRT {bindings.name}: {len(uses)} uses in {files} files, {len(findings)} findings")
            print("".join(f"  {finding}\n" for finding in findings), end="")
            found += len(findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
