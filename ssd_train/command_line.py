"""What every command of this project shares: options made of dataclasses, one result, one way to fail.

A command is a plain function. Parameters that are dataclasses of `options.option` fields become an option a field.
It returns a `Result`: text for people, which goes to standard output, and data for programs (`--json`). Everything
else, such as stages, bars, warnings and errors, goes to standard error.
"""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import logging
import os
import signal
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from ssd_train.command_options import gathered, parameters_of
from ssd_train.cpus import Computing, cpu_threads
from ssd_train.ending_signals import (
    EXIT_CODE_OF_SIGNAL,
    Ended,
    end_at_once_by_signals,
    exit_code_so_far,
    held,
    raised_as_ended,
)
from ssd_train.errors import OwnPartError, SSDDeployError, first_line
from ssd_train.paths import user_path
from ssd_train.pixel_limit import ReadingPictures, pixel_limit
from ssd_train.printable import one_line, printable
from ssd_train.shortage import shortage_of
from ssd_train.standard_streams import READER_GONE, use_lasting_streams
from ssd_train.temporary import remove_at_exit

USER_ERROR = 2

# Of what `--json` writes; raised where a field changes its meaning or goes away.
SCHEMA_VERSION = 1

STANDARD_OUTPUT = Path("-")

_QUIET = contextvars.ContextVar("quiet", default=False)

PACKAGES = ("ssd_train", "export", "ssd_deploy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a command came to.

    Attributes:
        text: for people.
        data: for programs, plain values.
        exit_code: other than 0 where the command did its work and the answer is bad.
    """

    text: str
    data: Mapping[str, Any]
    exit_code: int = 0


JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result here as JSON; - is standard output.", show_default=False)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Leave stages and bars out.")]


def add_command(app: typer.Typer, function: Callable[..., Result], name: str | None = None) -> None:
    """Make a command of a function; its docstring is the help."""
    app.command(name, cls=Command, context_settings={"help_option_names": ["-h", "--help"]})(as_command(function))


def as_command(function: Callable[..., Result]) -> Callable[..., None]:
    """Return a function that Typer takes: dataclasses taken apart, `--json` and `--quiet` added."""
    hints = typing.get_type_hints(function, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind) and name != "return"}
    shown = {"ctx": inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in groups:
            # A field of a second group, or a parameter of the same name, is one option for all of them.
            shown = {**parameters_of(groups[name]), **shown}
        else:
            shown[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
    shown["json"] = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=JsonOption)
    shown["quiet"] = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption)
    own = inspect.signature(function).parameters.keys() - groups.keys()

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for argument, value in values.items():
            if isinstance(value, Path):
                values[argument] = user_path(value, arguments=(argument,))
        ctx, json_path, quiet = values["ctx"], values.pop("json"), values.pop("quiet")
        check_results(json_path, ctx=ctx)
        arguments = {name: value for name, value in values.items() if name in own}
        for name, kind in groups.items():
            arguments[name] = gathered(kind, values)
            if isinstance(arguments[name], Computing):
                # Here for every command that computes: the number belongs to the process.
                ctx.with_resource(cpu_threads(arguments[name].threads))
            if isinstance(arguments[name], ReadingPictures):
                ctx.with_resource(pixel_limit(arguments[name].max_pixels))
        with told_on_standard_error(quiet):
            result = function(**arguments)
            with held():
                emit(result, json_path)
        if result.exit_code:
            ctx.exit(result.exit_code)

    # In a reader's order: what is required first, then as declared.
    command.__signature__ = inspect.Signature(list(shown.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


def emit(result: Result, json_path: Path | None) -> None:
    """Write a result's data and print its text; with `--json -` the data alone goes to standard output.

    The file first, whatever becomes of the print; and the text even where the file cannot be written.
    """
    data = {"schema_version": SCHEMA_VERSION, **result.data}
    if json_path == STANDARD_OUTPUT:
        from ssd_train.files import to_json

        print(printable(to_json(data)))
        return
    try:
        if json_path is not None:
            from ssd_train.files import write_json

            write_json(json_path, data)
    finally:
        if result.text:
            print(printable(result.text), flush=True)


def check_results(*paths: Path | None, ctx: typer.Context | None = None) -> None:
    """Raise SSDDeployError unless every result file that was named can be written, each to its own place.

    With a command's context, also for one that its command line names for something else, such as the model.
    """
    named = [path for path in paths if path not in (None, STANDARD_OUTPUT)]
    if not named:
        return
    from ssd_train.files import check_writable

    for path in named:
        assert path is not None
        check_writable(path)
    places = [os.path.realpath(path) for path in named if path is not None]
    others = [] if ctx is None else list(_files_in(ctx.params[name] for name in written(ctx)))
    for path, place in zip(named, places, strict=True):
        if places.count(place) > 1:
            raise SSDDeployError(f"{path}: is named for two results; name a file for each")
        if others.count(place) > 1:
            raise SSDDeployError(f"{path}: is named for a result and for something else; name a file for each")


def _files_in(values: Iterable[Any]) -> Iterator[str]:
    """Yield the files that exist among the values of options, behind all links."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _files_in(value)
        elif isinstance(value, str | Path) and os.path.isfile(value):
            yield os.path.realpath(value)


def written(ctx: typer.Context) -> frozenset[str]:
    """Return the parameters that were given on the command line, whatever their values."""
    # By its name, since newer releases of Typer bring a Click of their own to import it from.
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def run(app: typer.Typer) -> NoReturn:
    """Run a command line as what this process is for, and end the process.

    Whatever happens to the standard streams, the work goes on to its end; where standard output then lacks something,
    the exit code says so. Ending signals do what Ctrl-C does.
    """
    # OpenCV, once it is loaded, would print lines of its own around our errors.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    output = use_lasting_streams()
    remove_at_exit()
    with raised_as_ended():
        try:
            # Around each command, too, where the names of its options are known.
            with ended_by_signal(is_first=_is_first_process()), user_errors():
                app()
            code: Any = 0
        except SystemExit as error:
            # Typer takes any signal that comes before its command for Ctrl-C.
            is_ctrl_c = error.code == EXIT_CODE_OF_SIGNAL + signal.SIGINT
            code = (is_ctrl_c and exit_code_so_far()) or error.code
    end_at_once_by_signals()
    sys.stdout.flush()
    if output is not None and output.error is not None:
        if output.error.errno in READER_GONE:
            # As of a process that SIGPIPE ended, which is how other tools end.
            sys.exit(code or EXIT_CODE_OF_SIGNAL + signal.SIGPIPE)
        reason = output.error.strerror
        print(f"Error: standard output cannot be written ({reason}); make room, or send it elsewhere", file=sys.stderr)
        sys.exit(code or USER_ERROR)
    sys.exit(code)


@contextlib.contextmanager
def ended_by_signal(*, is_first: bool) -> Iterator[None]:
    """Within the block, turn an ending signal into an exit with the shell's code for it, once all is undone."""
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Ended) else signal.SIGINT
        if is_first:
            print(f"ended by {signal.Signals(number).name}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CODE_OF_SIGNAL + number)


# What options that may stand without a value then mean.
BARE_VALUES = {"--resume": "auto", "--ray": "local"}


class Command(TyperCommand):
    """A command that refuses an option that is given twice, and whose errors name its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = self._with_bare_values(args)
        # The order names an option once for each time it was given.
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in order:
            if param.param_type_name == "option" and not param.multiple and order.count(param) > 1:
                ctx.fail(f"{param.opts[-1]} is given twice; it takes one value")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        options = {param.name: param.opts[-1] for param in self.params if param.param_type_name == "option"}
        is_first = _is_first_process()
        with ended_by_signal(is_first=is_first), user_errors(is_first=is_first, options=options):
            return super().invoke(ctx)

    def _with_bare_values(self, args: list[str]) -> list[str]:
        """Complete an option that may stand without a value, as `--resume` to `--resume auto`."""
        options = {name for param in self.params for name in param.opts}
        bare = {name: value for name, value in BARE_VALUES.items() if name in options}
        completed = []
        for arg, following in zip(args, [*args, "--"][1:], strict=True):
            completed += [arg, bare[arg]] if arg in bare and following.startswith("-") else [arg]
        return completed


def _is_first_process() -> bool:
    """Whether this is the first of a command's processes: torchrun starts several, and tells each which it is."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextlib.contextmanager
def user_errors(*, is_first: bool = True, options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Within the block, turn errors that a user can mend into a line on standard error and an exit.

    Args:
        is_first: of several processes of one command the first on each machine says what is wrong in all of them.
        options: argument's name -> the option that it comes from, for the errors that name their arguments.
    """
    is_told = is_first
    sentence: str | None
    try:
        yield
    except SSDDeployError as error:
        sentence = str(error)
        named = dict.fromkeys((options or {}).get(argument, "") for argument in error.arguments)
        missing = [name for name in named if name and name not in sentence]
        if missing:
            sentence += f" ({', '.join(missing)})"
        is_told |= isinstance(error, OwnPartError)
    except OSError as error:
        # What the system refuses about a file that was named: no permission, a name too long.
        refused = f"{error.filename}: {error.strerror}; check the path" if error.filename is not None else None
        sentence = shortage_of(error) or refused
        if sentence is None:
            raise
    except ImportError as error:
        # A package that every installation has, or one that fails only at what is imported of it.
        sentence = f"{error.name or 'a package'} does not load ({first_line(error)}); reinstall it, or free some memory"
    except Exception as error:
        # Noticed by a library that has errors of its own.
        sentence = shortage_of(error)
        if sentence is None:
            raise
    else:
        return
    if is_told:
        print(f"Error: {one_line(sentence)}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)


class _Told(logging.Handler):
    """Prints what the packages log as plain lines on standard error, above any bar."""

    def emit(self, record: logging.LogRecord) -> None:
        start = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"{start}{one_line(record.getMessage())}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def told_on_standard_error(quiet: bool) -> Iterator[None]:
    """Within the block, print stages and warnings of this project's packages; warnings alone with `quiet`."""
    handler, token = _Told(), _QUIET.set(quiet)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        _QUIET.reset(token)
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def is_quiet() -> bool:
    """Whether bars are to be left out, too."""
    return _QUIET.get()
