"""Every file operation of every command that writes fails, or is the command's last one.

The next command of the documentation, without faults, then gives the store that would be there if
nothing had happened; and whoever reads in between sees the old tables or the new ones.

A sample of the operations is tried: one for each command and kind of place, and with ``-m slow``
one for each way to fail. ``pytest tests/store/test_crashes.py --all-cases`` tries them all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from crash_cases import chosen, judged
from faults import Outcome, invoke, killed_everywhere, with_fault
from pictures import Picture, differences, look, mixtures, study
from places import Folder, Objects, Place
from this_thread import zarr_in_this_thread
from tiny import fmritok, tokenize_options, write_atlas, write_cohort, write_series

SEED = 20261120
#: Cases of a scenario, of what is done and where, when not all are tried.
SAMPLE = 1
#: Writing of the documents that readers open first.
DOCUMENTS = r"(write|put) t\.zarr/([^/]+/)?zarr\.json"

Make = Callable[["Ground", Place], None]


@dataclass(frozen=True)
class Scenario:
    """A command that is disturbed, and what the documentation says to do then.

    Attributes
    ----------
    name : str
    start : str
        Name of the state that it begins in, a method of :class:`Ground`; empty for no store.
    command : str
        Name of the command that is disturbed.
    then : tuple of str
        Commands that follow an interruption.
    needs : str
        Option of ``tokenize`` without which there is nothing to try.
    """

    name: str
    start: str
    command: str
    then: tuple[str, ...]
    needs: str = ""


SCENARIOS = [
    Scenario("first plan", "", "first", ("first",)),
    Scenario("second cohort", "one", "second", ("second",)),
    Scenario("finalize", "unfolded", "first", ("first",)),
    Scenario("verify --drop", "damaged", "drop", ("drop", "first")),
    Scenario("redo dropped", "dropped", "first", ("first",)),
    Scenario("redo one run", "one", "redo run", ("redo run",), needs="--redo"),
    Scenario("redo changed", "one", "redo changed", ("redo changed",), needs="--redo"),
]


class Ground:
    """Cohorts, the commands on them, and the states that commands begin in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.atlas = write_atlas(folder / "atlas")
        self.first = write_cohort(folder / "first", ["100001", "100002"])
        self.second = write_cohort(folder / "second", ["200001", "200002", "200003"], seed=9)
        cut_off = write_series(self.second, "200003", frames=8, seed=3)
        cut_off.write_bytes(cut_off.read_bytes()[:-40])
        # The first cohort as it is after one of its runs was replaced by a longer one.
        self.changed = write_cohort(folder / "changed" / "first", ["100001", "100002"])
        write_series(self.changed, "100002", frames=700, seed=77)
        self._states: dict[tuple[str, str], Any] = {}

    def arguments(self, command: str, url: str) -> list[str]:
        """Return the command line of a command on the store at a place."""
        run_id = "hcp_100002_tfMRI_MOTOR_LR"
        if command == "drop":
            return ["verify", "--store", url, "--drop"]
        root, more = {
            "first": (self.first, []),
            "second": (self.second, ["--name", "second"]),
            "redo run": (self.changed, ["--redo", run_id]),
            "redo changed": (self.changed, ["--redo", "changed"]),
        }[command]
        return tokenize_options(root, url, self.atlas, *more)

    def run(self, command: str, place: Place) -> Outcome:
        """Run a command without faults."""
        return invoke(self.arguments(command, place.url))

    def state(self, name: str, kind: str, place: Place) -> Any:
        """Return a state that a scenario begins in; it is made once for each kind of place."""
        if name and (name, kind) not in self._states:
            getattr(self, f"_{name}")(kind, place)
            self._states[name, kind] = place.state()
        return self._states.get((name, kind))

    def _one(self, kind: str, place: Place) -> None:
        """Tokenize one cohort."""
        place.bring(None)
        assert self.run("first", place).exit_code == 0

    def _damaged(self, kind: str, place: Place) -> None:
        """Flip a bit in a shard of both runs."""
        from fmritok.pipeline.store.location import Location

        place.bring(self.state("one", kind, place))
        location = Location(place.url)
        keys = [k for k in location.find("network/tokens") if "/c/" in k]
        assert len(keys) == 2
        for key in keys:
            data = bytearray(location.read(key))
            data[len(data) // 3] ^= 1
            location.write(key, bytes(data))

    def _dropped(self, kind: str, place: Place) -> None:
        """Drop the damaged runs."""
        place.bring(self.state("damaged", kind, place))
        assert self.run("drop", place).exit_code == 1

    def _unfolded(self, kind: str, place: Place) -> None:
        """Stop where all runs have their records, and the table does not know it."""
        place.bring(None)
        arguments = self.arguments("first", place.url)
        of_records = [
            i for i, operation in enumerate(with_fault(arguments, place, None).operations)
            if "/records/" in operation and operation.split()[0] in ("rename", "put", "fsync")
        ]  # fmt: skip
        place.bring(None)
        after_them = of_records[-1] + 1
        _, kept = killed_everywhere(arguments, place, {after_them})
        place.bring(kept[after_them])
        assert len(look(place.url).runs["network"]) == 2


@dataclass
class Arena:
    """A scenario at a place: what it begins with, and what it should end with."""

    ground: Ground
    scenario: Scenario
    kind: str
    place: Place
    #: Cases that were healed, but for files that were not finished and lie there for ever.
    unfinished: int = 0

    @cached_property
    def start(self) -> Any:
        return self.ground.state(self.scenario.start, self.kind, self.place)

    def begin(self) -> None:
        self.place.bring(self.start)

    @cached_property
    def old(self) -> Picture:
        self.begin()
        return look(self.place.url, clear=Exception)  # what is damaged before is no matter here

    @property
    def operations(self) -> list[str]:
        """The operations of the command."""
        return self.end[-1]

    @cached_property
    def end(self) -> tuple[Picture, int, list[str], str, list[str]]:
        """Return what is there without a fault, and what the command did for it.

        They are the picture, the exit status, names beside the store, verify's word, operations.
        """
        self.begin()
        outcome = with_fault(self.arguments, self.place, None)
        operations = outcome.operations
        for command in self.scenario.then[1:]:
            outcome = self.ground.run(command, self.place)
        assert not outcome.traceback, outcome.traceback
        sound = fmritok("verify", "--store", self.place.url)
        assert sound.exit_code == 0, sound.output
        beside = [n for n in self.place.names() if not n.startswith("t.zarr/")]
        return study(self.place.url), outcome.exit_code, beside, sound.output, operations

    @property
    def arguments(self) -> list[str]:
        return self.ground.arguments(self.scenario.command, self.place.url)

    def after(self, outcome: Outcome | None) -> str:
        """Judge what a disturbed command left, heal it, and judge again.

        Parameters
        ----------
        outcome : Outcome, optional
            None for a command that was killed.

        Returns
        -------
        str
            What is wrong; empty if nothing is.
        """
        wanted, exit_code, beside, sound, _ = self.end
        if outcome is not None and outcome.traceback:
            return f"it ended with a traceback: {outcome.traceback.strip().splitlines()[-1]}"
        try:
            found = look(self.place.url)
        except Exception as error:
            return f"a reader in between met {type(error).__name__}: {error}"
        for what in mixtures(found, self.old, wanted):
            return f"a reader in between: {what}"
        # A command that says that all is well need not be run again.
        is_done = outcome is not None and outcome.exit_code == 0
        for command in () if is_done else self.scenario.then:
            last = self.ground.run(command, self.place)
            if last.traceback:
                return f"{command}, again: {last.traceback.strip().splitlines()[-1]}"
        if not is_done and last.exit_code != exit_code:
            return f"{command}, again: exit status {last.exit_code}: {last.output[-200:]}"
        try:
            found = study(self.place.url)
        except Exception as error:
            return f"a reader at the end met {type(error).__name__}: {error}"
        for what in differences(found, wanted):
            return f"at the end: {what}"
        verified = fmritok("verify", "--store", self.place.url)
        if (verified.exit_code, verified.output) != (0, sound):
            return f"verify at the end: {verified.output[-200:]}"
        names = self.place.names()
        self.unfinished += any(n.startswith("t.zarr/") and n.endswith(".partial") for n in names)
        left = [n for n in names if not n.startswith("t.zarr/") and n not in beside]
        return f"left beside the store: {left}" if left else ""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with zarr_in_this_thread():
        yield Ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def arena(ground: Ground, fast_folder: Path) -> Callable[[Scenario, str], Arena]:
    """Return a scenario's arena at a kind of place, made once."""
    made: dict[tuple[str, str], Arena] = {}

    def get(scenario: Scenario, kind: str) -> Arena:
        key = (scenario.name, kind)
        if key not in made:
            folder = fast_folder / scenario.name.replace(" ", "-")
            place: Place = (
                Folder(folder)
                if kind == "folder" else Objects(f"crashes-{folder.name}")
            )  # fmt: skip
            made[key] = Arena(ground, scenario, kind, place)
        return made[key]

    return get


#: What a command is disturbed by: it is killed, or one of its operations fails.
MODES = {"folder": ("kill", *Folder.modes), "objects": ("kill", *Objects.modes)}


def _marks(number: int, kind: str, mode: str) -> list[pytest.MarkDecorator]:
    """Leave a scenario one mode at each kind of place, another one than the scenario before has."""
    modes = MODES[kind]
    chosen = modes[(number + (kind == "objects")) % len(modes)]
    return [] if mode == chosen else [pytest.mark.slow]


CASES = [
    pytest.param(
        scenario, kind, mode, marks=_marks(number, kind, mode),
        id=f"{scenario.name}-{kind}-{mode}".replace(" ", "_"),
    )
    for number, scenario in enumerate(SCENARIOS)
    for kind, modes in MODES.items()
    for mode in modes
]  # fmt: skip


@dataclass
class Tally:
    """How many cases there were, how many healed, and what became of the others."""

    cases: int = 0
    wrong: list[str] = field(default_factory=list)


@pytest.mark.parametrize(("scenario", "kind", "mode"), CASES)
def test_the_next_command_heals_whatever_is_left(
    scenario: Scenario, kind: str, mode: str, arena: Any, request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    if scenario.needs and not _has_option(scenario.needs):
        pytest.skip(f"tokenize has no option {scenario.needs}")
    at = arena(scenario, kind)
    at.end, at.old  # noqa: B018  made before any fault
    seed = f"{SEED} {scenario.name} {kind} {mode}"
    decisive = DOCUMENTS if mode == "kill" else ""
    numbers = chosen(at, request, sample=SAMPLE, seed=seed, decisive=decisive)
    tally, at.unfinished = Tally(), 0
    for number, operation, wrong in judged(at, mode, numbers):
        tally.cases += 1
        if wrong:
            tally.wrong.append(f"operation {number} ({operation}): {wrong}")
    record_property("crash", [scenario.name, kind, mode, tally.cases, len(tally.wrong)])
    record_property("unfinished", at.unfinished)
    kinds = Counter(_kind(line) for line in tally.wrong)
    told = "\n".join([f"{n} x {line}" for line, n in kinds.most_common()][:12])
    assert not tally.wrong, f"{len(tally.wrong)} of {tally.cases} did not heal:\n{told}"
    assert tally.cases


def _kind(line: str) -> str:
    """Return a line without what differs among cases of one kind."""
    line = re.sub(r"[0-9a-f]{32}", "*", line.partition(": ")[2])
    return re.sub(r"/dev/shm/\S*|/tmp/\S*|memory://\S*", "PATH", line)[:300]


def _has_option(name: str) -> bool:
    from fmritok.pipeline.commands.tokenize import tokenize

    return any(name in parameter.opts for parameter in tokenize.params)
