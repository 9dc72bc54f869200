"""Models divided among processes train as whole ones do, and their files do not tell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from ranks import RESUMED, SHARDED, SMALL, trainer
from safetensors.torch import load_file

from fmritok.cli import main
from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import read_metrics

#: Figures that measure the machine, or this process's windows alone.
OTHER = {"tokens_per_s", "stall_share", "memory_bytes", "effective_rank", "embedding_std"}
FILES = ("model", "optimizer")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def store(make_store):
    """Make a store whose epochs end with a batch of one window: one process has none of it."""
    return make_store([40, 9, 33, 20, 16], n_tokens=4, dim=6)[0].url


def _figures(out):
    return [{k: v for k, v in row.items() if k not in OTHER} for row in read_metrics(out)]


def _assert_same_curve(out, other, rel=2e-4):
    rows, others = _figures(out), _figures(other)
    assert [row.pop("kind") for row in rows] == [row.pop("kind") for row in others]
    for a, b in zip(rows, others, strict=True):
        assert a == pytest.approx(b, rel=rel, abs=rel / 100), out.name


@pytest.mark.slow
def test_sharded_models_train_like_whole_ones(store, tmp_path, two_ranks):
    for name, options in SHARDED.items():
        plain = [option for option in options if "compile" not in option]
        if name != "bf16":  # in two processes that are not divided
            trainer(store, tmp_path / f"{name}-one", plain).run()
    two_ranks.do("shard_as_rank", tmp_path, store)
    for name in SHARDED:
        one, two = tmp_path / f"{name}-one", tmp_path / f"{name}-two"
        # In bf16, layers of a divided model have all of their weights in it, norms too. That is a
        # rounding of 0.4 %, and 7 steps add to it.
        _assert_same_curve(two, one, rel=2e-2 if name == "bf16" else 2e-4)
        for file in FILES:
            shapes = [
                {key: (value.shape, value.dtype) for key, value in load_file(path).items()}
                for path in (
                    find_checkpoint(out).folder / f"{file}.safetensors" for out in (one, two)
                )
            ]
            assert shapes[0] == shapes[1]
    norms = [row["grad_norm"] for row in _figures(tmp_path / "mtm-two") if "grad_norm" in row]
    assert min(norms) > 0.05, "gradients were never clipped"


@pytest.mark.slow
def test_checkpoints_do_not_depend_on_the_number_of_processes(store, tmp_path, two_ranks):
    for name, options in RESUMED.items():
        trainer(store, tmp_path / f"{name}-one", options).run()
    two_ranks.do("resume_as_rank", tmp_path, store)
    for name, options in RESUMED.items():
        for begun in ("one", "two"):
            saved, out = tmp_path / f"{name}-{begun}", tmp_path / f"{name}-{begun}-then-two"
            for file in FILES:  # divided, put together again: not a bit has changed
                before = load_file(TrainingFolder(saved).checkpoints()[0] / f"{file}.safetensors")
                after = load_file(out / f"{file}-0.safetensors")
                assert before.keys() == after.keys()
                assert all(torch.equal(before[key], after[key]) for key in before)
                assert load_file(out / f"{file}-1.safetensors") == {}
            _assert_same_curve(out, tmp_path / f"{name}-one")
        two, again = tmp_path / f"{name}-two", tmp_path / f"{name}-two-then-two"
        assert _figures(again) == _figures(two)
        for file in FILES:
            a, b = (find_checkpoint(out).folder / f"{file}.safetensors" for out in (two, again))
            assert a.read_bytes() == b.read_bytes()
        early = TrainingFolder(two).checkpoints()[0]
        trainer(store, tmp_path / f"{name}-two-then-one", options, resume=early).run()
        _assert_same_curve(tmp_path / f"{name}-two-then-one", tmp_path / f"{name}-one")


@pytest.mark.slow
def test_shard_works_under_torchrun_and_is_refused_in_one_process(store, tmp_path):
    options = ["train", "--store", store, "--out", str(tmp_path / "out"), "--device", "cpu",
               "--loader-workers", "0", "--steps", "2", "--shard"]  # fmt: skip
    for assignment in SMALL:
        options += ["--set", assignment]
    alone = CliRunner().invoke(main, options)
    assert alone.exit_code == 2
    assert "--shard: expected several processes to divide the model among, got one" in alone.output
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "--module", "fmritok.cli", *options]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "step-00000002" in done.stdout
