"""``fmritok train``: with nothing but a store; its errors and exit codes; its signals."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import started
from stores import write_store

from fmritok.cli import main
from fmritok.pipeline.store.location import Location
from fmritok.trainer.recipe import read_recipe
from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.metrics import read_metrics

SMALL = ["data.window=16", "model.width=16", "model.layers=1", "model.mlp_width=16"]


@pytest.fixture
def store(make_store):
    return make_store([40, 9, 33], n_tokens=3, dim=4)[0].url


def _train(*options, small=True):
    settings = [x for assignment in SMALL for x in ("--set", assignment)] if small else []
    return CliRunner().invoke(main, ["train", *map(str, options), *settings])


@pytest.mark.loss_curve
def test_train_needs_only_a_store(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(main, ["train", "--store", store, "--steps", "20"])
    assert result.exit_code == 0, result.output
    (out,) = Path("trainings").iterdir()
    assert out.name.startswith("tiny-")
    assert f"Checkpoint: {out / 'checkpoints' / 'step-00000020'}" in result.output
    for word in (
        "held-out subjects",
        "mean token",
        "time courses alone",
        "tokens/s",
        "stalled on data",
        "Verdict: ",
        "than the mean token on held-out subjects; ",
    ):
        assert word in result.output
    names = {path.name for path in out.iterdir()}
    assert names == {"checkpoints", "config.yaml", "loss.png", "metrics.jsonl", "split.json",
                     "tensorboard"}  # fmt: skip
    assert read_recipe(str(out / "config.yaml"))["train"]["steps"] == 20


def test_the_printed_configuration_is_a_recipe_of_the_same_training(store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    printed = _train("--print-config", "--recipe", "cortexmae", "--set", "objective.name=mtm",
                     "--seed", 3, small=False)  # fmt: skip
    assert printed.exit_code == 0, printed.output
    assert "Objective mtm has no options mask_ratio_of, stride, decoder" in caplog.text
    file = tmp_path / "mine.yaml"
    file.write_text(printed.stdout)
    tree = read_recipe(str(file))
    assert tree["objective"] == {"name": "mtm", "mask_ratio": 0.9, "masking": "tube", "chunk": 4096}
    assert tree["train"]["seed"] == 3
    again = _train("--print-config", "--recipe", file, small=False)
    assert again.stdout == printed.stdout
    out = tmp_path / "a"
    done = _train("--store", store, "--out", out, "--recipe", file, "--steps", 1,
                  "--loader-workers", 0, "--device", "cpu", "--set", "model.heads=2", "--set",
                  "model.kv_heads=1", "--set", "data.validation_fraction=0.3")  # fmt: skip
    assert done.exit_code == 0, done.output
    of_training = _train("--print-config", "--resume", out, small=False)
    assert of_training.stdout == (out / "config.yaml").read_text()
    assert _train("--print-config", "--set", "objective.stride=2").exit_code == 2


def test_resume_takes_the_configuration_of_the_checkpoint(store, tmp_path):
    out = tmp_path / "a"
    options = ("--store", store, "--loader-workers", 0, "--device", "cpu")
    assert _train(*options, "--out", out, "--steps", 5, "--seed", 3).exit_code == 0
    assert find_checkpoint(out).state["config"]["train"]["seed"] == 3
    done = _train(*options, "--resume", out, small=False)
    assert done.exit_code == 0, done.output
    assert len(read_metrics(out)) == 6
    other = _train(*options, "--resume", out, "--steps", 9, small=False)
    assert other.exit_code == 1
    assert "train.steps = 5 (as it was saved), got 9" in other.output
    again = _train(*options, "--out", out)
    assert again.exit_code == 2
    assert f"Go on with that training by --resume {out}" in again.output
    new = _train(*options, "--init-from", out, "--out", tmp_path / "b", "--steps", 2)
    assert new.exit_code == 0, new.output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--set", "objective.stride=2"], 2, "options of objective mae. Leave them out"),
        (["--resume", "a", "--init-from", "b"], 2, "Give one of them"),
        (["--recipe", "huge"], 2, "got 'huge'"),
        (["--set", "optim.lrr=1"], 2, "Did you mean optim.lr?"),
        (["--set", "data.subjects=3"], 2, "at most the 2 subjects not held out, got 3"),
        (["--device", "abacus"], 2, "Option device: expected a device that torch can use here"),
        (["--resume", "nowhere"], 2, "Checkpoint nowhere: expected a folder"),
        (["--init-from", "nowhere"], 2, "Checkpoint nowhere: expected a folder"),
        (["--group", "flatmap"], 2, "expected one of vae, got flatmap"),
    ],
)
def test_errors_say_what_where_and_what_next(store, tmp_path, options, code, message):
    result = _train("--store", store, "--out", tmp_path / "x", *options, small=False)
    assert result.exit_code == code
    assert message in result.output.replace("\n", " ")


def test_a_path_without_a_store_is_refused(tmp_path):
    assert "Missing option '--store'" in _train().output
    result = _train("--store", tmp_path / "nothing", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "expected a store made by `fmritok tokenize`" in result.output
    assert not (tmp_path / "x").exists()


#: Trains, and says in the end what it imported of the packages that only the pipeline needs.
TRAIN = """
import atexit, sys
from fmritok.cli import main
names = ("nibabel", "nilearn", "diffusers", "dask", "distributed")
say = lambda: print("imported", [m for m in names if m in sys.modules], file=sys.stderr)
atexit.register(say)
main()
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Send a signal to all processes of a training; return folder, status and what was said."""
    folder = tmp_path_factory.mktemp("ended")
    store = str(folder / "tokens.zarr")
    write_store(Location(store), [40, 9, 33], n_tokens=3, dim=4)

    @functools.cache
    def end(number):
        out = folder / str(number)
        command = [sys.executable, "-c", TRAIN, "train", "--store", store, "--out", str(out),
                   "--loader-workers", "1", "--steps", "100000", "--device", "cpu"]  # fmt: skip
        for assignment in SMALL:
            command += ["--set", assignment]
        process = started(command, out, rows=12)
        os.killpg(process.pid, number)
        _, text = process.communicate()
        return out, process.returncode, text

    return end


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_to_the_whole_job_saves_and_ends(ended, number):
    """Clusters and Ctrl-C signal every process of the job, loader workers too."""
    out, status, text = ended(number)
    step = find_checkpoint(out).step
    assert status == 128 + number
    assert f"got {signal.Signals(number).name} after step {step}" in text
    assert f"go on with --resume {out}" in text
    assert "Traceback" not in text
    assert read_metrics(out)[-1]["step"] == step


def test_the_trainer_imports_only_the_store_of_the_pipeline(ended):
    assert "imported []" in ended(signal.SIGTERM)[2]


def test_importing_the_command_imports_nothing_heavy():
    code = (
        "import sys, fmritok.trainer.commands.train;"
        "print([m for m in ('torch', 'zarr', 'numpy', 'rich', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
