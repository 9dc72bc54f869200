"""Exit statuses, near names, renamed options, and how much is printed."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner
from tiny import fmritok, tokenize_options, write_atlas, write_cohort

from fmritok import cli
from fmritok.errors import FmritokError
from fmritok.usage import with_new_names

COHORT = ["--dataset", "hcp", "--root", "."]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("usage") / "cohort", ["100001", "100002"])


@pytest.fixture(scope="module")
def store(cohort, tmp_path_factory):
    path = tmp_path_factory.mktemp("usage") / "t.zarr"
    atlas = write_atlas(path.parent / "atlas")
    done = fmritok(*tokenize_options(cohort, path, atlas))
    assert done.exit_code == 0, done.output
    return path


@pytest.mark.parametrize("arguments", [
    ["no-such-command"],
    ["catalog"],
    ["catalog", "--dataset", "hpc", "--root", "."],
    ["catalog", "--dataset", "hcp", "--root", "nowhere"],
    ["catalog", *COHORT, "--input", "voxels"],
    ["catalog", *COHORT, "--tr", "0"],
    ["plan", *COHORT, "--store", "s", "--tokenizer", "vea"],
    ["plan", *COHORT, "--store", "s", "--set", "vae.nothing=1"],
    ["plan", *COHORT, "--store", "s", "--weights", "nowhere"],
    ["plan", *COHORT, "--store", "s", "--group", "../up"],
    ["plan", *COHORT, "--store", "s", "--input", "surface"],
    ["tokenize", *COHORT, "--store", "s", "--workers", "0"],
    ["tokenize", *COHORT, "--store", "s", "--scratch", "nowhere"],
    ["tokenize", *COHORT, "--store", "s", "--cluster", "nowhere.yaml"],
    ["inspect", "--store", "nowhere"],
    ["inspect", "--store", "STORE", "--group", "vae"],
    ["verify", "--store", "nowhere"],
    ["decode", "--store", "STORE", "--run", "nobody", "--out", "a.tsv"],
    ["decode", "--store", "STORE", "--run", "hcp_100001_tfMRI_MOTOR_LR", "--out", "a.xyz"],
    ["decode", "--store", "STORE", "--run", "hcp_100001_tfMRI_MOTOR_LR", "--out", "a.tsv",
     "--group", "vae"],
    ["fetch", "atlas", "--out", "a", "--cerebellum", "nowhere.nii"],
    ["fetch", "template", "--out", "a", "--from", "nowhere"],
    ["demo-data", "a", "--subjects", "0"],
    ["train", "--store", "nowhere"],
    ["train", "--store", "STORE", "--group", "vae"],
    ["train", "--store", "STORE", "--recipe", "nothing"],
    ["train", "--store", "STORE", "--resume", "nowhere"],
    ["probe", "--store", "STORE", "--training", "nowhere", "--target", "sex"],
    ["list", "things"],
])  # fmt: skip
def test_wrong_usage_ends_with_status_2_and_one_error(store, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    result = fmritok(*(store if argument == "STORE" else argument for argument in arguments))
    assert result.exit_code == 2, result.output
    assert result.output.count("Error: ") == 1
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("s*"))


def test_errors_while_working_end_with_status_1(store, cohort, tmp_path):
    (tmp_path / "empty").mkdir()
    assert fmritok("catalog", "--dataset", "hcp", "--root", tmp_path / "empty").exit_code == 1
    assert fmritok("verify", "--store", tmp_path / "empty").exit_code == 2
    (tmp_path / "empty" / "note.txt").write_text("another folder")
    assert fmritok("verify", "--store", tmp_path / "empty").exit_code == 1


@pytest.mark.parametrize(("typed", "meant"), [
    (["tokenzie"], "Did you mean tokenize?"),
    (["tran"], "Did you mean train?"),
    (["fetch", "wieghts"], "Did you mean weights?"),
    (["xyz"], "Choose one of catalog, plan"),
    (["catalog", "--dataset", "bidz", "--root", "."], "Did you mean bids?"),
])  # fmt: skip
def test_near_names_are_suggested(typed, meant):
    result = fmritok(*typed)
    assert result.exit_code == 2
    assert meant in result.output


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_end_a_command_with_their_status(monkeypatch, name, status):
    @click.command("inspect")
    def slow() -> None:
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(30)

    monkeypatch.setattr(cli._LazyGroup, "get_command", lambda *_: slow)
    before = signal.getsignal(signal.SIGTERM)
    background = signal.signal(signal.SIGINT, signal.default_int_handler)  # which ignores it
    try:
        result = CliRunner().invoke(cli.main, ["inspect"])
    finally:
        signal.signal(signal.SIGINT, background)
    assert (result.exit_code, result.output) == (status, "Error: Interrupted.\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_real_process_ends_with_the_status_of_its_signal(tmp_path):
    """The shell sees 143, as Slurm's accounting does."""
    code = (
        "import time\n"
        "from fmritok import cli\n"
        "import fmritok.pipeline.store.verify as v\n"
        "def wait(*_):\n"
        "    print('at work', flush=True)\n"
        "    time.sleep(60)\n"
        "v.verify_store = wait\n"
        "cli.main(['verify', '--store', 'x'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], text=True, cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "at work\n"
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "Error: Interrupted.\n")


def failing(monkeypatch):
    """Let ``inspect`` print of all kinds, and fail."""
    from fmritok.terminal import echo, log_to_terminal, remark

    @click.command("inspect")
    def command() -> None:
        log_to_terminal()
        logger = logging.getLogger("fmritok.x")
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        try:
            logger.debug("detail")
            logger.info("step")
        finally:
            logger.removeHandler(handler)
        remark("remark")
        echo("result")
        raise FmritokError("it failed")

    monkeypatch.setattr(cli.import_module("fmritok.pipeline.commands.inspect"), "inspect", command)


@pytest.mark.parametrize(("option", "shown", "hidden"), [
    ("--quiet", ["result"], ["remark", "step", "detail", "Traceback"]),
    ("-q", ["result"], ["remark", "step", "detail", "Traceback"]),
    (None, ["result", "remark", "step"], ["detail", "Traceback"]),
    ("-v", ["result", "remark", "step", "detail", "Traceback"], []),
])  # fmt: skip
def test_quiet_and_verbose(monkeypatch, caplog, option, shown, hidden):
    caplog.set_level(logging.INFO)  # as log_to_terminal does where pytest has no handler
    failing(monkeypatch)
    result = CliRunner().invoke(cli.main, ["inspect", *([option] if option else [])])
    assert result.exit_code == 1
    for word in [*shown, "Error: it failed"]:
        assert word in result.output, word
    for word in hidden:
        assert word not in result.output, word


def test_every_command_can_be_quiet_and_says_so_in_its_help():
    for name in cli.COMMANDS:
        for inner in [["weights"], ["atlas"]] if name == "fetch" else [[]]:
            text = fmritok(name, *inner, "--help").output
            assert "-q, --quiet" in text, name
            assert "-v, --verbose" in text, name


def test_old_names_of_options_become_new_ones_and_say_so_once(capsys):
    names = {"--old": "--new"}
    given = ["--old", "1", "--old=2", "--older", "--", "--old"]
    assert with_new_names(given, names) == ["--new", "1", "--new=2", "--older", "--", "--old"]
    assert capsys.readouterr().err == "--old is now called --new.\n"
    assert with_new_names(["--new"], names) == ["--new"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("command", "old", "new", "values"), [
    ("plan", "--precision", "--store-dtype", ("int8", "int32")),
    ("tokenize", "--precision", "--store-dtype", ("int8", "int32")),
    ("train", "--workers", "--loader-workers", ("0", "-1")),
    ("train", "--weight", "--mix", ("1", "much")),
    ("probe", "--workers", "--loader-workers", ("0", "-1")),
])  # fmt: skip
def test_each_old_name_reaches_the_option_under_its_new_name(command, old, new, values):
    """The new name refuses a wrong value; a good one leaves only what else is missing."""
    good, wrong = (fmritok(command, old, value) for value in values)
    for done in (good, wrong):
        assert done.exit_code == 2
        assert done.stderr.startswith(f"{old} is now called {new}.\n")
    assert f"Invalid value for '{new}'" in wrong.stderr
    assert "Missing option" in good.stderr
    assert old not in re.findall(r"--[a-z-]+", fmritok(command, "--help").output)


def test_workers_of_dask_keep_their_name():
    done = fmritok("tokenize", *COHORT, "--store", "s", "--workers", "0")
    assert "now called" not in done.stderr
    assert "Invalid value for '--workers'" in done.stderr


def test_under_torchrun_the_first_process_alone_says_the_new_name(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert with_new_names(["--old"], {"--old": "--new"}) == ["--new"]
    assert capsys.readouterr().err == ""
