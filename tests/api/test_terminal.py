"""Text of stores and cohorts is printed as it is, and does nothing."""

from __future__ import annotations

import io
import logging

import click
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.table import Table
from tiny import fmritok

from fmritok.pipeline.store.ledger import allocate
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.terminal import (
    echo,
    labelled,
    log_to_terminal,
    new_console,
    plain,
    spreadsheet_cell,
)

#: Clears a screen, sets a title, rings, reorders text, and is markup, a link and an emoji.
EVIL = "\x1b[2J\x1b]0;title\x07\x9b1m\u202egnp.exe\r[/x][red]a[link=file:///etc]:smile:"
SHOWN = "\\x1b[2J\\x1b]0;title\\x07\\x9b1m\\u202egnp.exe\\r[/x][red]a[link=file:///etc]:smile:"


def test_hidden_characters_are_written_out():
    assert plain(EVIL) == SHOWN
    assert plain("Größe 3 µm\tjp: 日本\n") == "Größe 3 µm\tjp: 日本\n"
    assert plain("\ud800") == "\\ud800"


def test_a_console_prints_strings_as_they_are():
    out = io.StringIO()
    console = new_console(file=out, width=200, force_terminal=True)
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    console.print(table)
    console.print(EVIL, soft_wrap=True)
    console.print(labelled("failed", EVIL), soft_wrap=True)
    text = out.getvalue()
    assert text.count("\\x1b[2J") == 5
    assert text.count("[/x][red]a[link=file:///etc]:smile:") == 5
    assert "\x1b[2J" not in text
    assert not {"\x07", "\x9b", "\u202e"} & set(text)


def test_lines_errors_and_messages_are_printed_as_they_are(capsys):
    echo(EVIL)
    echo(EVIL, err=True)
    assert capsys.readouterr() == (f"{SHOWN}\n", f"{SHOWN}\n")

    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        log_to_terminal()
        logging.getLogger("x").warning("run %s", EVIL)
    finally:
        root.handlers = before
    assert capsys.readouterr().err == f"run {SHOWN}\n"


def test_steps_of_other_packages_are_not_printed(monkeypatch, capsys):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    log_to_terminal()
    logging.getLogger("matplotlib.font_manager").info("generated new fontManager")
    logging.getLogger("matplotlib.font_manager").warning("no such font")
    logging.getLogger("fmritok.trainer").info("step")
    assert capsys.readouterr().err == "no such font\nstep\n"


@pytest.mark.parametrize("kind", [click.ClickException, click.UsageError, OSError, MemoryError])
def test_errors_are_printed_as_they_are(monkeypatch, kind):
    from fmritok import cli

    @click.command("inspect")
    def failing() -> None:
        raise kind(EVIL)

    monkeypatch.setattr(cli._LazyGroup, "get_command", lambda *_: failing)
    result = CliRunner().invoke(cli.main, ["inspect"])
    assert result.exit_code in (1, 2)
    assert SHOWN in result.output
    assert "\x1b" not in result.output


def test_a_store_with_evil_text_is_inspected(tmp_path, make_store, run_table):
    location, _ = make_store([10])
    spec = GroupSpec("late", 1, 1, "float16", provenance={"tokenizer": EVIL},
                     notes={"template": EVIL, "weights": EVIL})  # fmt: skip
    runs = run_table([10]).assign(task=EVIL, site="=1+1", dataset="[/red]", problem="bad")
    allocate(location, spec, runs)
    write_record(location, "late", RunRecord("demo_100_run0", "failed", reason=EVIL))
    events = pd.DataFrame({"run_id": ["demo_100_run0"], "onset": 0.0, "duration": 1.0,
                           "trial_type": EVIL})  # fmt: skip
    write_annotations(location, {"events": events})
    for command in (["inspect"], ["verify"], ["inspect", "--json"]):
        result = fmritok(*command, "--store", location.url)
        assert result.exit_code == 0, (result.output, result.exception)
        assert "\x1b" not in result.output
        assert "\u202e" not in result.output
    assert "failed demo_100_run0: \\x1b[2J" in fmritok("inspect", "--store", location.url).output


@pytest.mark.parametrize(("text", "shown"), [
    ("=1+1", "'=1+1"), ("+cmd", "'+cmd"), ("@x", "'@x"), ("-x", "'-x"), ("\tx", "'\tx"),
    ("-1.5", "-1.5"), ("+1e3", "+1e3"), ("a=b", "a=b"), ("", ""),
])  # fmt: skip
def test_cells_are_no_formulas(text, shown):
    assert spreadsheet_cell(text) == shown
