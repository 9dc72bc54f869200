"""Every file operation of a training fails, or is its last one; the next command makes it whole.

It ends with the weights, moments and rows of a training that nothing disturbed, and nobody ever
sees half a checkpoint. A sample of the operations is tried; ``--cases N`` and ``--all-cases`` try
more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from crash_cases import chosen, judged
from faults import Outcome, invoke, with_fault
from this_thread import zarr_in_this_thread
from trainings import Result, Trainings, quick_and_seen

from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import read_metrics

SEED = 20261126
#: Cases of a scenario and mode, when not all are tried.
SAMPLE = 1
SCENARIOS = ("new", "resume", "branch", "finished")


class Arena:
    """A command that is disturbed: where it begins, and what it should end with."""

    def __init__(self, trainings: Trainings, scenario: str) -> None:
        self.trainings, self.scenario = trainings, scenario
        self.place, self.out = trainings.place, trainings.out
        self.arguments = {
            "new": trainings.new,
            "resume": trainings.resume,
            "branch": lambda: trainings.resume("from", "--out", self.out),
            "finished": trainings.resume,
        }[scenario]()
        self.start: Any = {
            "new": None,
            "resume": trainings.stopped,
            "branch": {
                "from" + name.removeprefix("./")[1:]: data
                for name, data in trainings.stopped.items()
            },
            "finished": trainings.finished,
        }[scenario]

    def begin(self) -> None:
        self.place.bring(self.start)

    @cached_property
    def operations(self) -> list[str]:
        """The operations of the command."""
        self.begin()
        return with_fault(self.arguments, self.place, None).operations

    @cached_property
    def names(self) -> set[str]:
        """What is in the folder of the training at the end."""
        self.operations  # noqa: B018  ran to its end
        return self._names()

    def _names(self) -> set[str]:
        names = {n for n in self.place.names() if n.startswith("t/")}
        return {n for n in names if "tensorboard/" not in n}

    def after(self, outcome: Outcome | None) -> str:
        """Judge what a disturbed command left, run the next command, and judge again.

        Parameters
        ----------
        outcome : Outcome, optional
            None for a command that was killed.

        Returns
        -------
        str
            What is wrong; empty if nothing is.
        """
        if outcome is not None and outcome.traceback:
            return f"it ended with a traceback: {outcome.traceback.strip().splitlines()[-1]}"
        checkpoints = TrainingFolder(self.out).checkpoints()
        try:
            for folder in checkpoints:
                find_checkpoint(folder).check()
            if (self.out / "metrics.jsonl").exists():
                read_metrics(self.out)
        except Exception as error:
            return f"a reader in between met {type(error).__name__}: {error}"
        if outcome is None or outcome.exit_code:
            again = self.trainings.resume() if checkpoints else self.arguments
            told: Outcome = in_child(lambda: invoke(again))
            if told.exit_code or told.traceback:
                return f"again: {told.exit_code}: {told.traceback or told.output}"[-300:]
        found = Result.of(self.out)
        if found != self.trainings.wanted:
            return "other weights or rows at the end"
        if outcome is None and (left := self._names() ^ self.names):
            return f"at the end there is, or is not: {sorted(left)}"
        return ""


@pytest.fixture(scope="module")
def trainings(fast_folder: Path) -> Iterator[Trainings]:
    with zarr_in_this_thread(), quick_and_seen():
        yield Trainings(fast_folder)


@pytest.mark.parametrize("mode", ["kill", "error", "full"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_next_command_after_a_crash_gives_the_undisturbed_result(
    scenario: str, mode: Any, trainings: Trainings, request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    at = Arena(trainings, scenario)
    assert at.names
    numbers = chosen(at, request, sample=SAMPLE, seed=f"{SEED} {scenario} {mode}")
    cases, wrong = 0, []
    for number, operation, what in judged(at, mode, numbers):
        cases += 1
        if what:
            wrong.append(f"operation {number} ({operation}): {what}")
    record_property("crash", [f"training, {scenario}", mode, cases, len(wrong)])
    kinds = Counter(line.partition("): ")[2] for line in wrong)
    told = "\n".join([*wrong[:12], *(f"{n} x {line}" for line, n in kinds.most_common(12))])
    assert not wrong, f"{len(wrong)} of {cases} did not heal:\n{told}"
    assert cases
