"""How a function becomes a command: its options, and its errors in one or two lines.

app.command()(command(function))     as typer takes it
with errors(debug): ...              a DatusError or Ctrl-C ends with a message and an exit code
"""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from datus.engine.progress import printable
from datus.errors import INTERRUPTED, DatusError

Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function with an option --debug, and with `errors` around it.

    A parameter that is a dataclass stands for options that several commands share: typer sees the
    fields of the dataclass in its place.
    """
    hints = get_type_hints(function).items()
    shared: dict[str, Any] = {name: hint for name, hint in hints if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        options = shared.get(name)
        parameters += inspect.signature(options).parameters.values() if options else [parameter]
    debug_option = inspect.Parameter(
        "debug", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False, annotation=Debug
    )

    @wraps(function)
    def run(debug: bool, **given: Any) -> None:
        with errors(debug):
            for name, options in shared.items():
                values = {field.name: given.pop(field.name) for field in fields(options)}
                given[name] = options(**values)
            function(**given)

    run.__signature__ = inspect.Signature([*parameters, debug_option])  # type: ignore[attr-defined]
    return run


@contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Errors are one or two lines with the cure; --debug shows the traceback."""
    try:
        yield
    except DatusError as error:
        if debug:
            traceback.print_exc()
        print(printable(f"error: {error}"), file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        raise typer.Exit(130) from None
