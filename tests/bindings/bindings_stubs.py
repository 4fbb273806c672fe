"""Type stubs of TensorRT's Python bindings, written by mypy's stubgen from the bindings themselves.

    compiled bindings -> stubgen (members and docstring signatures) -> repaired -> one .pyi a version

The repairs are what a checker needs and pybind11's docstrings cannot say; none of them adds a member
of TensorRT, so that a name which the bindings do not have is not in the stubs either.
"""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bindings:
    """Where the bindings of one version are.

    Attributes:
        name: of the version, for reports; also of the module of its stubs, as `tensorrt_<name>`.
        module: the compiled module, with its package.
        packages: folder to import it from; None where it is installed.
        libraries: folder of the libraries that it loads; None where it finds them itself.
    """

    name: str
    module: str
    packages: Path | None = None
    libraries: Path | None = None

    @property
    def stubs(self) -> str:
        """Name of the module of stubs."""
        return f"tensorrt_{self.name}"

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return "rtx" in self.module


VERSIONS = ("10", "11", "rtx")

RTX = Bindings(name="rtx", module="tensorrt_rtx_bindings.tensorrt_rtx")


def made_bindings(folder: Path, major: str) -> Bindings:
    """Return the bindings of a major version in a folder that `make_bindings.sh` made."""
    return Bindings(
        name=major,
        module="tensorrt_bindings.tensorrt",
        packages=folder / major / "packages",
        libraries=folder / major / "libraries",
    )


def write_stubs(bindings: Bindings, folder: Path) -> None:
    """Write `folder/<bindings.stubs>.pyi`.

    Raises:
        RuntimeError: the bindings cannot be imported, with what stubgen said.
    """
    raw = folder / f"{bindings.name}.stubgen"
    environment = dict(os.environ)
    if bindings.packages and bindings.libraries:
        for variable, first in (("PYTHONPATH", bindings.packages), ("LD_LIBRARY_PATH", bindings.libraries)):
            environment[variable] = os.pathsep.join(filter(None, (str(first), os.environ.get(variable))))
    # mypy is compiled, so that `-m mypy.stubgen` does not work.
    command = [
        "-c",
        "from mypy.stubgen import main; main()",
        "--inspect-mode",
        "--module",
        bindings.module,
        "--output",
        str(raw),
    ]
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    path = raw / (bindings.module.replace(".", "/") + ".pyi")
    if done.returncode or not path.is_file():
        raise RuntimeError(f"{bindings.module}: stubgen failed:\n{done.stdout}{done.stderr}")
    (folder / f"{bindings.stubs}.pyi").write_text(repaired(path.read_text()))


def repaired(stubs: str) -> str:
    """Return stubgen's text as a checker can use it."""
    tree = ast.parse("\n".join(_valid_defaults(line) for line in stubs.splitlines()))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            _repair_class(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            _repair_function(node)
        elif isinstance(node, ast.AnnAssign):
            node.annotation = _repaired_type(node.annotation)
    # The package around the compiled module has it.
    tree.body += ast.parse("import builtins\n__version__: str").body
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _valid_defaults(line: str) -> str:
    """INetworkDefinition.add_scale_nd has a default before a parameter without one, which Python's grammar forbids."""
    if line.lstrip().startswith("def "):
        try:
            ast.parse(line.strip())
        except SyntaxError:
            return re.sub(r" = \.\.\.", "", line)
    return line


def _repair_class(node: ast.ClassDef) -> None:
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    added = []
    for item in list(node.body):
        name = item.target.id if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) else ""
        if name == "__enter__":  # set by the package in Python, without types
            node.body.remove(item)
            added.append("def __enter__(self) -> typing.Self: ...")
        elif name == "__exit__":
            node.body.remove(item)
            added.append("def __exit__(self, *unused: object) -> None: ...")
        elif name == "__members__" and isinstance(item, ast.AnnAssign):
            item.annotation = ast.parse(f"ClassVar[dict[str, {node.name}]]", mode="eval").body
    item_type = _item_type(node)
    if item_type and "__len__" in methods and "__iter__" not in methods:  # Python iterates by index
        added.append(f"def __iter__(self) -> collections.abc.Iterator[{item_type}]: ...")
    if node.name == "IHostMemory" and "__buffer__" not in methods:  # a slot, invisible before Python 3.12
        added.append("def __buffer__(self, flags: int, /) -> memoryview: ...")
    get_error = methods.get("get_error")
    if node.name == "OnnxParser" and get_error and get_error.args.vararg:
        # Its docstring names a C++ type, nvonnxparser::IParserError, so that stubgen reads no signature from it.
        node.body.remove(get_error)
        added.append("def get_error(self, index: int) -> ParserError: ...")
    for text in added:
        node.body += ast.parse(text).body


def _item_type(node: ast.ClassDef) -> str | None:
    """Return the type of an item by index."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__getitem__" and len(item.args.args) == 2:
            index = item.args.args[1].annotation
            if index is not None and item.returns is not None and ast.unparse(index) == "typing.SupportsInt":
                return ast.unparse(item.returns)
    return None


def _repair_function(node: ast.FunctionDef) -> None:
    if node.name == "__init__" and node.args.vararg and node.args.kwarg:
        # pybind11's way to say that only TensorRT makes such objects.
        node.args = ast.arguments(
            [], [ast.arg("self"), ast.arg("no_constructor", _typing("Never"))], None, [], [], None, []
        )
    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        if argument.annotation is not None:
            argument.annotation = _repaired_type(argument.annotation)
            if ast.unparse(argument.annotation) == "Dims":
                # pybind11 converts sequences, which its docstrings leave out.
                argument.annotation = ast.parse("Dims | collections.abc.Sequence[int]", mode="eval").body
    if node.returns is not None:
        node.returns = _repaired_type(node.returns)


def _repaired_type(annotation: ast.expr) -> ast.expr:
    return _TypeRepair().visit(annotation)


class _TypeRepair(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        # The bindings have a variable `bool`, TensorRT's data type.
        return ast.parse("builtins.bool", mode="eval").body if node.id == "bool" else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        # pybind11 writes SupportsInt for an int, but refuses floats; what it gives to callbacks is an int.
        builtin = {"typing.SupportsInt": "int", "typing.SupportsFloat": "float"}.get(ast.unparse(node))
        return ast.Name(builtin) if builtin else node


def _typing(name: str) -> ast.expr:
    return ast.Attribute(ast.Name("typing"), name)
