"""Trainings of a few steps on a tiny store, whole and stopped, and what they should end with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from children import ChildError, in_child
from faults import invoke
from places import Folder
from safetensors.torch import save
from tiny import fmritok, tokenize_options, write_atlas, write_cohort

from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import read_metrics
from fmritok.trainer.training.loop import Trainer

#: What of a training's rows is about the machine.
_TIMES = ("tokens_per_s", "stall_share", "memory_bytes")
_SMALL = ["data.window=16", "data.batch_size=2", "data.validation_fraction=0.25",
          "data.windows_per_run=2", "model.width=16", "model.layers=1", "model.mlp_width=16",
          "model.patch=4", "train.steps=6", "train.validate_every=3", "train.checkpoint_every=2",
          "train.log_every=3"]  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a training ended with: checksums of its tensors, and its rows without times."""

    tensors: tuple[str, ...]
    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, training: Path) -> Result:
        """Read the result of a training."""
        folder = find_checkpoint(training).folder
        files = [folder / f"{name}.safetensors" for name in ("model", "optimizer")]
        sums = tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        return cls(sums, [{k: v for k, v in row.items() if not k.endswith(_TIMES)}
                          for row in read_metrics(training)])  # fmt: skip


class Trainings:
    """A store and a place for trainings.

    Attributes
    ----------
    place : Folder
        The training is in its folder ``t``.
    stopped, finished : dict
        States of the place: killed after five of six steps, and at the end.
    wanted : Result
        Of a training that nothing disturbed.
    """

    def __init__(self, folder: Path) -> None:
        atlas = write_atlas(folder / "atlas")
        cohort = write_cohort(folder / "cohort", [f"10000{i}" for i in range(4)], frames=40)
        self.store = folder / "store.zarr"
        done = fmritok(*tokenize_options(cohort, self.store, atlas))
        assert done.exit_code == 0, done.output
        self.root = folder / "place"
        self.place = Folder(self.root)
        self.out = self.root / "t"

        told = in_child(lambda: invoke(self.new()))
        assert told.exit_code == 0, told
        self.finished, self.wanted = self.place.state(), Result.of(self.out)
        self.place.bring(None)
        try:
            in_child(self._train_and_die)
        except ChildError as error:
            assert str(error) == "it died"  # noqa: PT017
        self.stopped = self.place.state()
        steps = [path.name for path in TrainingFolder(self.out).checkpoints()]
        assert steps == ["step-00000002", "step-00000004"]
        assert len(read_metrics(self.out)) == 6

    def new(self, *more: object, out: str = "t") -> list[str]:
        """Return the arguments that start a training."""
        settings = [x for assignment in _SMALL for x in ("--set", assignment)]
        return [*self._arguments(), "--recipe", "tiny", *settings, "--out", str(self.root / out),
                *map(str, more)]  # fmt: skip

    def resume(self, what: str = "t", *more: object) -> list[str]:
        """Return the arguments that go on with a training."""
        return [*self._arguments(), "--resume", str(self.root / what), *map(str, more)]

    def probe(self) -> list[str]:
        """Return the arguments that probe a training."""
        return [str(x) for x in (
            "probe", "--store", self.store, "--training", self.out, "--target", "sex", "--folds", 2,
            "--seeds", 1, "--crops", 2, "--permutations", 2, "--device", "cpu", "--json",
            "--no-cache",
            "--out", self.root / "probe",
        )]  # fmt: skip

    def _arguments(self) -> list[str]:
        return ["train", "--store", str(self.store), "--loader-workers", "0", "--device", "cpu"]

    def _train_and_die(self) -> None:
        step = Trainer._step

        def step_or_die(trainer: Trainer, *arguments: Any) -> None:
            if trainer.position.step == 5:
                os._exit(1)
            step(trainer, *arguments)

        with mock.patch.object(Trainer, "_step", step_or_die):
            invoke(self.new())


@contextmanager
def quick_and_seen() -> Iterator[None]:
    """Leave the picture empty, which takes most of the time, and let Python write the tensors.

    safetensors writes files itself, where no operation of it can be seen.
    """

    def save_file(tensors: Any, path: Path, metadata: Any = None) -> None:
        path.write_bytes(save(tensors, metadata))

    def draw(picture: Any, file: Any, **options: Any) -> None:
        file.write(b"picture")

    with ExitStack() as patched:
        patched.enter_context(mock.patch("fmritok.trainer.record.checkpoint.save_file", save_file))
        patched.enter_context(mock.patch("matplotlib.figure.Figure.savefig", draw))
        yield


def probed(output: str) -> Any:
    """Return the scores that a probe printed."""
    return json.loads(output[output.index("{\n") :])
