"""What the processes of a distributed test do; a module of its own, so that they can import it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.distributed import Ranks
from fmritok.trainer.loop import Trainer
from fmritok.trainer.objectives.coding_rate import coding_rate
from fmritok.trainer.recipe import build_config, override

SMALL = [
    "data.window=12", "data.windows_per_run=3", "data.batch_size=4", "data.validation_fraction=0.4",
    "data.max_validation_windows=5", "model.width=16", "model.layers=1", "model.mlp_width=16",
    "train.validate_every=5", "train.checkpoint_every=5", "train.log_every=2",
    "objective.head_width=16", "objective.projection=8",
]  # fmt: skip


#: Trainings to compare: what is trained, in how many parts by one and by two processes.
RUNS = [("mtm", 1, 1), ("mtm", 3, 2), ("mae", 2, 1), ("distill", 1, 1)]


def train(store, out, name, parts, ranks):
    options = [*SMALL, f"objective.name={name}", f"train.accumulate={parts}", "train.steps=12"]
    config = build_config(override({}, options))
    group = TokenStore(store).group()
    trainer = Trainer(config, group, out=out, device=torch.device("cpu"), ranks=ranks)
    return trainer.run()


def _join(rank, folder):
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    torch.set_num_threads(1)
    return Ranks(rank, 2, rank)


def train_as_rank(rank, store, folder):
    ranks = _join(rank, folder)
    for name, _, parts in RUNS:
        train(store, Path(folder) / f"{name}{parts}-two", name, parts, ranks)
    ranks.leave()


def rate_as_rank(rank, folder, x_MZ):
    ranks = _join(rank, folder)
    own = (x_MZ[:5] if rank == 0 else x_MZ[5:]).clone().requires_grad_()
    rate = coding_rate(own, precision=0.05)
    (rate * len(own)).backward()
    # As DistributedDataParallel and the learner do it: sum of gradients, divided by all rows.
    np.savez(f"{folder}/{rank}.npz", rate=rate.item(), gradient=own.grad / len(x_MZ))
    nothing = own.detach()[:1].requires_grad_()
    alone = coding_rate(nothing if rank else own.detach(), precision=0.05, count=not rank)
    np.save(f"{folder}/alone{rank}.npy", alone.item())
    ranks.leave()
