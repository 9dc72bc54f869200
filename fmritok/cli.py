"""The command line: one group, whose commands are imported only when they are used."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

import click

from fmritok.errors import FmritokError
from fmritok.terminal import Verbosity, echo, plain, set_verbosity, verbosity
from fmritok.usage import CommandGroup, with_new_names, with_verbosity

__all__ = ["COMMANDS", "main"]

#: Extra of the installation that each command needs; the others need none.
EXTRAS = {
    "catalog": "tokenize",
    "plan": "tokenize",
    "tokenize": "tokenize",
    "decode": "tokenize",
    "fetch": "tokenize",
    "demo-data": "tokenize",
    "train": "train",
    "probe": "probe",
    "embed": "probe",
    "export": "train",
    "import": "all",
    "baseline": "probe",
    "finetune": "probe",
    "compare": "report",
    "saliency": "saliency",
    "report": "report",
    "list": "all",
}

#: Command to module; its attribute is the command's name with underscores, or stands behind it.
COMMANDS = {
    "catalog": "fmritok.pipeline.commands.catalog",
    "plan": "fmritok.pipeline.commands.tokenize",
    "tokenize": "fmritok.pipeline.commands.tokenize",
    "inspect": "fmritok.pipeline.commands.inspect",
    "verify": "fmritok.pipeline.commands.verify",
    "decode": "fmritok.pipeline.commands.decode",
    "fetch": "fmritok.pipeline.commands.fetch",
    "demo-data": "fmritok.pipeline.commands.demo_data",
    "train": "fmritok.trainer.commands.train",
    "probe": "fmritok.trainer.commands.probe",
    "embed": "fmritok.trainer.commands.embed",
    "export": "fmritok.trainer.commands.export",
    "import": "fmritok.hub.import_command:import_released",
    "baseline": "fmritok.trainer.commands.baseline",
    "finetune": "fmritok.trainer.commands.finetune",
    "compare": "fmritok.trainer.commands.compare",
    "saliency": "fmritok.report.saliency",
    "report": "fmritok.report.command",
    "list": "fmritok.list_command:list_names",
}


#: Options that had another name in release 0.1: by command, old name to new name.
RENAMED = {
    "plan": {"--precision": "--store-dtype"},
    "tokenize": {"--precision": "--store-dtype"},
    "train": {"--workers": "--loader-workers", "--weight": "--mix"},
    "probe": {"--workers": "--loader-workers"},
}

_ENDING = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which clusters send before they kill, or a lost terminal; else like Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _LazyGroup(CommandGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        try:
            place, _, attribute = COMMANDS[name].partition(":")
            module = import_module(place)
        except ModuleNotFoundError as error:
            raise _without_extra(name, error) from error
        command: click.Command = getattr(module, attribute or name.replace("-", "_"))
        return with_verbosity(command)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        set_verbosity(Verbosity.NORMAL)
        return super().make_context(*args, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, with_new_names(rest, RENAMED.get(name or "", {}))

    def invoke(self, ctx: click.Context) -> object:
        with _signals_raise():
            try:
                return super().invoke(ctx)
            except ModuleNotFoundError as error:
                raise _without_extra(ctx.invoked_subcommand or "", error) from error
            except click.ClickException as error:
                vars(error)["message"] = plain(error.message)
                raise
            except BrokenPipeError:  # as with `| head`: click ends quietly
                raise
            except (FmritokError, OSError) as error:  # of the system: no space, no permission, ...
                status = error.exit_status if isinstance(error, FmritokError) else 1
                raise _failed(plain(error), status) from error
            except MemoryError as error:
                text = f"Memory ran out ({plain(error) or 'no more is said'})."
                raise _failed(text, 1) from error
            except KeyboardInterrupt as error:
                number = error.number if isinstance(error, Terminated) else signal.SIGINT
                text = str(error.args[0]) if error.args else "Interrupted."
                raise _failed(text, 128 + number) from error


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Raise :class:`Terminated` on the signals that end a process, in the main thread."""

    def end(number: int, _: object) -> None:
        raise Terminated(number)

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, end) for number in _ENDING} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failed(text: str, status: int) -> click.ClickException:
    """Return the error that click prints; with ``--verbose``, print the traceback before it."""
    if verbosity() == Verbosity.VERBOSE:
        echo(traceback.format_exc(), err=True)
    failed = click.ClickException(text)
    failed.exit_code = status  # type: ignore[misc]
    return failed


def _without_extra(command: str, error: ModuleNotFoundError) -> Exception:
    """Say which extra of the installation a command lacks; a module of ours is no such case."""
    missing = error.name or ""
    if missing.partition(".")[0] == "fmritok" or command not in EXTRAS:
        return error
    return click.ClickException(
        f"`fmritok {command}` needs the package {missing}: "
        f"install it with `pip install 'fmritok[{EXTRAS[command]}]'`."
    )


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0, or 1 after an error, 2 for wrong usage, 130 after Ctrl-C, 143 after "
    "SIGTERM.",
)
@click.version_option(version("fmritok"), prog_name="fmritok")
def main() -> None:
    """Encode fMRI cohorts once into a token store; train long-sequence models on it many times.

    Every command takes -q (print only errors and the result) and -v (print details, and the
    traceback of an error).
    """
    # it prints what it repairs in headers; what matters of that, fmritok says with the file's name
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
