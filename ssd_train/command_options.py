"""Dataclasses of `options.option` fields as options of a command line, and what is typed as their instances."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ssd_train.options import Option, about


def parameters_of(kind: Any) -> dict[str, inspect.Parameter]:
    types_of = typing.get_type_hints(kind)
    parameters = {}
    for field in dataclasses.fields(kind):
        known = about(field)
        if known is not None:
            annotation, default = _option_of(field.name, types_of[field.name], field.default, known)
            parameters[field.name] = inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
    return parameters


def option_name(field: str) -> str:
    """Return what the command line calls a field that has no name of its own there."""
    return f"--{field.replace('_', '-')}"


def _option_of(name: str, kind: Any, default: Any, known: Option) -> tuple[Any, Any]:
    """Return the annotation and the default of a field's option."""
    base = _without_none(kind)
    names = known.names or (option_name(name),)
    if base is bool and "/" not in names[-1]:
        names = (*names[:-1], f"{names[-1]}/--no-{names[-1].removeprefix('--')}")
    value_type: Any = base
    if base == tuple[int, ...]:
        value_type, default = str, ",".join(map(str, default or ()))
    elif base == tuple[str, ...]:
        value_type, default = list[str], None
    if isinstance(default, Path):
        default = str(default)
    expected = "" if known.choices else known.expected()
    about_it = typer.Option(
        *names,
        help=f"{known.help} [{expected}]" if expected else known.help,
        metavar="|".join(known.choices) or None,
        autocompletion=(lambda: list(known.choices)) if known.choices else None,
        show_default=default not in (None, "", False),
    )
    return Annotated[value_type | None if default is None else value_type, about_it], default


def gathered(kind: Any, values: Mapping[str, Any]) -> Any:
    """Make an instance of what its options say."""
    types_of = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        known = about(field)
        if known is None:
            continue
        value = values[field.name]
        base = _without_none(types_of[field.name])
        if base == tuple[int, ...]:
            value = parse_numbers(value, option_name(field.name))
        elif base == tuple[str, ...]:
            value = tuple(value or ())
        if not known.allows(value):
            name = (known.names or (option_name(field.name),))[-1]
            raise typer.BadParameter(f"{value} is not {known.expected()}", param_hint=f"'{name}'")
        fields[field.name] = value
    return kind(**fields)


def _without_none(kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def parse_list(text: str, choices: typing.Iterable[str], name: str) -> list[str]:
    """Split an option such as `--format onnx,tensorrt`, each value once; what is no choice is Typer's error."""
    values = list(dict.fromkeys(value.strip() for value in text.split(",") if value.strip()))
    choices = list(choices)
    if not values or not set(values) <= set(choices):
        wrong = f"{text!r} is not one of {', '.join(choices)}, or several with commas between"
        raise typer.BadParameter(wrong, param_hint=f"'{name}'")
    return values


def parse_numbers(text: str | None, name: str) -> tuple[int, ...]:
    """Split an option such as `--target-sm 75,89` into whole numbers above 0; empty without it."""
    values = [value.strip() for value in (text or "").split(",") if value.strip()]
    is_empty_list = text is not None and text != "" and not values
    if is_empty_list or not all(value.isascii() and value.isdigit() and int(value) > 0 for value in values):
        raise typer.BadParameter(
            f"{text!r} is not a list of whole numbers above 0 with commas between", param_hint=f"'{name}'"
        )
    return tuple(int(value) for value in values)
