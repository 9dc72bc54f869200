"""All commands on a GPU, on small stores: ``pytest -m gpu``.

Without a GPU they run on the CPU: what the tests say of the commands holds there, too.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from cohorts import write_phenotypes, write_run
from tiny import fmritok

from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.metrics import read_metrics

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
SMALL = [
    "data.window=8", "data.windows_per_run=2", "data.batch_size=3", "data.validation_fraction=0.3",
    "model.width=32", "model.layers=2", "model.mlp_width=32", "model.patch=2", "train.steps=6",
    "train.validate_every=3", "train.checkpoint_every=3", "train.log_every=1",
]  # fmt: skip

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def _run(*arguments):
    done = fmritok(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


def _train_options(store, group, out, *assignments):
    options = ["train", "--store", store, "--group", group, "--out", out, "--recipe", "tiny",
               "--device", DEVICE, "--loader-workers", "0"]  # fmt: skip
    for assignment in (*SMALL, *assignments):
        options += ["--set", assignment]
    return options


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Tokenize runs of unequal length with each tokenizer."""
    root = tmp_path_factory.mktemp("gpu")
    subjects = [f"{100001 + i}" for i in range(4)]
    for i, subject in enumerate(subjects):
        write_run(root / "hcp", subject, frames=6 + i)
    write_phenotypes(root / "hcp", subjects)
    _run("tokenize", "--dataset", "hcp", "--root", root / "hcp", "--store", root / "t.zarr",
         *(x for name in ("vae", "flatmap", "network") for x in ("--tokenizer", name)),
         "--set", "network.band=null", "--set", "network.tr=null", "--device", DEVICE,
         "--executor", "serial", "--no-compile")  # fmt: skip
    return root / "t.zarr"


@pytest.mark.parametrize(
    ("tokens", "objective"), [("vae", "mtm"), ("flatmap", "mae"), ("network", "distill")]
)
def test_each_tokenizer_and_objective_trains_in_finite_steps(store, tmp_path, tokens, objective):
    _run(*_train_options(store, tokens, tmp_path / "t", f"objective.name={objective}"))
    rows = [row for row in read_metrics(tmp_path / "t") if row["kind"] == "train"]
    assert len(rows) == 6
    assert all(row["memory_bytes"] > 0 for row in rows)
    if DEVICE != "cpu":
        assert torch.cuda.current_device() == torch.device(DEVICE).index


@pytest.mark.parametrize("compiled", ["false", "null"])
def test_a_resumed_training_repeats_itself_bit_for_bit(store, tmp_path, compiled):
    """Kernels are deterministic by default."""
    options = [f"train.compile={compiled}", "train.keep_checkpoints=3"]
    _run(*_train_options(store, "network", tmp_path / "whole", *options))
    early = sorted((tmp_path / "whole" / "checkpoints").glob("step-*"))[0]
    _run("train", "--store", store, "--resume", early, "--out", tmp_path / "again",
         "--device", DEVICE, "--loader-workers", "0")  # fmt: skip
    whole, again = (find_checkpoint(tmp_path / name).folder for name in ("whole", "again"))
    assert whole.name == again.name == "step-00000006"
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / file).read_bytes() == (again / file).read_bytes()


def test_a_training_is_probed(store, tmp_path):
    _run(*_train_options(store, "network", tmp_path / "t"))
    output = _run("probe", "--store", store, "--training", tmp_path / "t", "--target",
                  "sex", "--folds", 2, "--seeds", 1, "--crops", 2, "--permutations", 0, "--json",
                  "--device", DEVICE, "--out", tmp_path / "probe")  # fmt: skip
    assert json.loads(output[output.index("{\n") :])


def test_one_process_under_torchrun(store, tmp_path):
    """With NCCL on a GPU, which needs one GPU for each process."""
    options = _train_options(store, "network", tmp_path / "t")
    options[options.index(DEVICE)] = "auto" if DEVICE != "cpu" else "cpu"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1",
               "--module", "fmritok.cli", *map(str, options)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step-00000006" in done.stdout
