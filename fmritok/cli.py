"""The command line: one group, whose commands are imported only when they are used."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.metadata import version

import click

from fmritok.errors import FmritokError
from fmritok.terminal import plain

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
    "baseline": "probe",
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
    "baseline": "fmritok.trainer.commands.baseline",
    "list": "fmritok.list_command:list_names",
}


class _LazyGroup(click.Group):
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
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise _without_extra(ctx.invoked_subcommand or "", error) from error
        except click.ClickException as error:
            vars(error)["message"] = plain(error.message)
            raise
        except (FmritokError, OSError) as error:  # of the system: no space, no permission, ...
            raise click.ClickException(plain(error)) from error
        except MemoryError as error:
            raise click.ClickException(
                f"Memory ran out ({plain(error) or 'no more is said'})."
            ) from error


def _without_extra(command: str, error: ModuleNotFoundError) -> Exception:
    """Say which extra of the installation a command lacks; a module of ours is no such case."""
    missing = error.name or ""
    if missing.partition(".")[0] == "fmritok" or command not in EXTRAS:
        return error
    return click.ClickException(
        f"`fmritok {command}` needs the package {missing}: "
        f"install it with `pip install 'fmritok[{EXTRAS[command]}]'`."
    )


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("fmritok"), prog_name="fmritok")
def main() -> None:
    """Encode fMRI cohorts once into a token store; train long-sequence models on it many times."""
    # it prints what it repairs in headers; what matters of that, fmritok says with the file's name
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
