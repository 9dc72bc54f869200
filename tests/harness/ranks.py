"""What the two processes of a distributed test do (``two_ranks.py`` calls it)."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from click.testing import CliRunner
from safetensors.torch import save_file
from trainers import trainer_on_cpu

from fmritok.cli import main
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.objectives.coding_rate import coding_rate
from fmritok.trainer.parallel.distributed import Ranks
from fmritok.trainer.parallel.sharding import whole_tensors
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.training import loop

SMALL = [
    "data.window=12", "data.windows_per_run=3", "data.batch_size=4", "data.validation_fraction=0.4",
    "data.max_validation_windows=5", "model.width=16", "model.layers=1", "model.mlp_width=16",
    "train.validate_every=5", "train.checkpoint_every=5", "train.log_every=2",
]  # fmt: skip


DISTILL = ["objective.name=distill", "objective.head_width=16", "objective.projection=8"]

#: Trainings to compare: options, in how many parts by one and by two processes. Where windows
#: share reads, a batch of 4 has windows of two reads, and a process has 3 of them, 2 or 1.
READS = ["data.windows_per_read=3", "data.read_frames=14"]
RUNS = {
    "mtm": (["objective.name=mtm"], 1, 1),
    "mtm-parts": (["objective.name=mtm"], 3, 2),
    "mtm-reads": (["objective.name=mtm", *READS], 1, 1),
    "mae": (["objective.name=mae"], 2, 1),
    "distill": (DISTILL, 1, 1),
    "distill-reads": ([*DISTILL, "objective.centre=true", *READS], 1, 1),
}


def trainer(store, out, options, **how):
    options = [*SMALL, "train.steps=7", *options]
    return trainer_on_cpu(options, TokenStore(store).group(), out, **how)


def train(store, out, options, parts, ranks):
    options = [*options, f"train.accumulate={parts}", "train.steps=7"]
    return trainer(store, out, options, ranks=ranks).run()


def _join(rank, folder):
    loop.plot_losses = lambda *_: None  # it takes longer than these trainings
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    torch.set_num_threads(1)
    return Ranks(rank, 2, rank)


def train_as_rank(rank, folder, store):
    ranks = _join(rank, folder)
    for name, (options, _, parts) in RUNS.items():
        train(store, Path(folder) / f"{name}-two", options, parts, ranks)
    ranks.leave()


def rate_as_rank(rank, folder, rows):
    ranks, x_MZ = _join(rank, folder), torch.tensor(rows)
    own = (x_MZ[:5] if rank == 0 else x_MZ[5:]).clone().requires_grad_()
    rate = coding_rate(own, epsilon=0.05)
    (rate * len(own)).backward()
    # As DistributedDataParallel and the learner do it: sum of gradients, divided by all rows.
    np.savez(f"{folder}/{rank}.npz", rate=rate.item(), gradient=own.grad / len(x_MZ))
    nothing = own.detach()[:1].requires_grad_()
    alone = coding_rate(nothing if rank else own.detach(), epsilon=0.05, count=not rank)
    np.save(f"{folder}/alone{rank}.npy", alone.item())
    ranks.leave()


#: Trainings of divided models: name and options.
SHARDED = {
    "mtm": ["train.accumulate=2", "model.layers=2", "optim.clip=0.05"],
    "mae": ["objective.name=mae", "model.checkpointing=selective"],
    "distill": [*DISTILL, "objective.centre=true"],
    "full": ["model.checkpointing=full", "objective.chunk=8", "train.accumulate=3"],
    "bf16": ["train.dtype=bf16", "model.layers=2"],
    # One graph: windows of one length, no validation.
    "compiled": ["train.compile=true", "data.window=9", "train.steps=2",
                 "data.validation_fraction=0"],
}  # fmt: skip
#: Of these all checkpoints are kept, and gone on with from the first.
RESUMED = {
    name: [*SHARDED[name], "train.steps=12", "train.keep_checkpoints=9"]
    for name in ("mtm", "distill")
}


def shard_as_rank(rank, folder, store):
    how = {"ranks": _join(rank, folder), "shard": True}
    in_no_time = partial(torch.compile, backend="aot_eager")
    with mock.patch.object(torch, "compile", in_no_time):
        for name, options in SHARDED.items():
            trainer(store, Path(folder) / f"{name}-two", options, **how).run()
    # What is rounded to bfloat16 depends on the windows of each process.
    trainer(store, Path(folder) / "bf16-one", SHARDED["bf16"], ranks=how["ranks"]).run()
    how["ranks"].leave()


def resume_as_rank(rank, folder, store):
    """Train; go on from the first checkpoint, and from one process's, saving it again as it is."""
    how, folder = {"ranks": _join(rank, folder), "shard": True}, Path(folder)
    for name, options in RESUMED.items():
        trainer(store, folder / f"{name}-two", options, **how).run()
        for begun in ("one", "two"):
            out = folder / f"{name}-{begun}-then-two"
            early = TrainingFolder(folder / f"{name}-{begun}").checkpoints()[0]
            again = trainer(store, out, options, resume=early, **how)
            held = sum(p.to_local().numel() for p in again.model.parameters())
            assert held < 0.6 * sum(p.numel() for p in again.model.parameters())
            whole = whole_tensors(again.model, again.learner.optimizer, keep=rank == 0)
            for part, file in zip(whole, ("model", "optimizer"), strict=True):
                save_file(part, out / f"{file}-{rank}.safetensors")
            again.run()
    how["ranks"].leave()


def poison_as_rank(rank, folder, store):
    ranks, statistics = _join(rank, folder), TokenGroup.statistics

    def poisoned(group, row):
        found = statistics(group, row)
        return replace(found, mean=found.mean * np.nan)

    with mock.patch.object(TokenGroup, "statistics", poisoned):
        try:
            trainer(store, Path(folder) / "out", [], ranks=ranks, shard=True).run()
        except TrainingError as error:
            (Path(folder) / f"{rank}.txt").write_text(str(error))
    ranks.leave()


def resume_in_two(rank, folder, store, options):
    """Go on with a training, each process in a folder of its own name."""
    ranks, folder = _join(rank, folder), Path(folder)
    again = trainer(store, folder / f"rank{rank}", options, resume=folder / "a", ranks=ranks)
    begun = again.position.step
    (folder / f"{rank}.json").write_text(json.dumps([begun, str(again.run().checkpoint)]))
    ranks.leave()


def command_as_rank(rank, folder, port, arguments):
    """Run a command as ``torchrun`` starts it; the second process gets a signal after step 3."""
    of_torchrun = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    step = loop.Trainer._step

    def step_and_signal(trainer, *arguments):
        step(trainer, *arguments)
        if rank == 1 and trainer.position.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with (
        mock.patch.dict(os.environ, of_torchrun),
        mock.patch.object(loop.Trainer, "_step", step_and_signal),
    ):
        told = CliRunner().invoke(main, arguments)
    (Path(folder) / f"{rank}.json").write_text(json.dumps([told.exit_code, told.output]))
