"""What all commands have in common: near names, renamed options, ``--quiet`` and ``--verbose``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import click

from fmritok.terminal import Verbosity, echo, set_verbosity

__all__ = ["CommandGroup", "with_new_names", "with_verbosity"]


class CommandGroup(click.Group):
    """A group of commands that names the nearest one of a mistyped name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant by the first argument."""
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            near = get_close_matches(args[0], known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(known)}."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)


def with_new_names(args: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """Return arguments with the new names of options; say each new name once.

    Parameters
    ----------
    args : iterable of str
    names : dict of str to str
        Old names to new ones.
    """
    found, said, is_over = [], set(), False
    for arg in map(str, args):
        option, equals, value = arg.partition("=")
        is_over = is_over or arg == "--"
        if option in names and not is_over:
            if option not in said and os.environ.get("RANK", "0") == "0":  # one of torchrun's
                echo(f"{option} is now called {names[option]}.", err=True)
            said.add(option)
            arg = names[option] + equals + value
        found.append(arg)
    return found


def with_verbosity(command: click.Command) -> click.Command:
    """Add ``--quiet`` and ``--verbose`` to a command and to those below it."""
    if not any(param in command.params for param in _OPTIONS):
        command.params.extend(_OPTIONS)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_verbosity(inner)
    return command


def _option(chosen: Verbosity, names: list[str], text: str) -> click.Option:
    def choose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            set_verbosity(chosen)

    return click.Option(names, is_flag=True, expose_value=False, callback=choose, help=text)


_OPTIONS = [
    _option(Verbosity.QUIET, ["-q", "--quiet"], "Print only errors and the result."),
    _option(Verbosity.VERBOSE, ["-v", "--verbose"],
            "Print details, and the traceback of an error."),
]  # fmt: skip
