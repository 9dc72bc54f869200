"""Every file of a store is damaged in every way; commands say so, or are not affected.

Training, probe, decode and inspect give the figures of the undamaged store, or one error that names
the file or the run. ``verify`` reports every damage. There is no third outcome.

A sample of the damages is tried; ``pytest tests/store/test_damage.py --all-cases`` tries them all.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import zarr
from children import ChildError, in_child
from damages import Damage, cut, delete, edit, flip, numbers, remove, swap
from faults import invoke
from pictures import TABLES
from places import Folder
from this_thread import zarr_in_this_thread
from tiny import fmritok, tokenize_options, write_atlas, write_cohort

from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore

SEED = 20261120
#: Damages of a kind, when not all are tried.
SAMPLE = 1
#: Fields of one JSON document that are edited.
FIELDS = 6
GROUPS = {"packed": ("int8", "zstd"), "plain": ("float16", "none")}
COMMANDS = ("train", "probe", "decode", "inspect", "verify")
#: Arrays that grow with every run.
BY_RUN = ("tokens", "mean", "std", "scale", "samples", "coverage")
#: What of a training's record is about the machine.
_TIMES = ("tokens_per_s", "stall_share", "seconds", "memory_bytes")
_SMALL = ["data.window=16", "data.batch_size=2", "data.validation_fraction=0.25",
          "data.windows_per_run=2", "model.width=16", "model.layers=1", "model.mlp_width=16",
          "model.patch=4"]  # fmt: skip


@dataclass
class Answer:
    """What a command said."""

    exit_code: int
    figures: Any
    output: str
    traceback: str
    warnings: list[str] = field(default_factory=list)


class Yard:
    """A store with a training for each group, and what the commands say of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        atlas = write_atlas(folder / "atlas")
        cohort = write_cohort(folder / "cohort", [f"10000{i}" for i in range(4)], frames=700)
        self.place = Folder(folder / "store")
        self.store = Path(self.place.url)
        for group, (precision, codec) in GROUPS.items():
            done = fmritok(*tokenize_options(
                cohort, self.store, atlas, "--store-dtype", precision, "--codec", codec,
                groups=(group,),
            ))  # fmt: skip
            assert done.exit_code == 0, done.output
        self.state = self.place.state()
        self.keys = Location(self.store).find("")
        opened = TokenStore(self.store)
        self.runs = {group: opened.group(group).runs for group in GROUPS}
        self.shards = {
            group: int(zarr.open_group(self.store, mode="r")[f"{group}/tokens"].shards[0])
            for group in GROUPS
        }
        for group in GROUPS:
            trained = self._train(group, folder / group)
            assert trained.exit_code == 0, trained
        # What the commands need is imported here once, for all children.
        self.ask(group, str(self.runs[group]["run_id"].iloc[0]))
        self._sound: dict[tuple[str, str], dict[str, Answer]] = {}

    def sound(self, group: str, run_id: str) -> dict[str, Answer]:
        """Return what the commands say of the undamaged store."""
        if (group, run_id) not in self._sound:
            self.place.bring(self.state)
            answers = in_child(lambda: self.ask(group, run_id))
            assert all(a.exit_code == 0 for a in answers.values()), answers
            self._sound[group, run_id] = answers
        return self._sound[group, run_id]

    def ask(self, group: str, run_id: str) -> dict[str, Answer]:
        """Run every command in a child process, which takes its state with it."""
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        store = ("--store", self.store)
        answers = {"train": self._train(group, out / "train")}
        answers["probe"] = _told(
            "probe", *store, "--group", group, "--training", self._folder / group, "--target",
            "sex", "--target", "trial_type", "--folds", 2, "--seeds", 1, "--crops", 2,
            "--event-window", 3, "--device", "cpu", "--json", "--no-cache", "--out", out / "probe",
        )  # fmt: skip
        answers["decode"] = _told(
            "decode", *store, "--group", group, "--run", run_id, "--out", out / "run.tsv",
            figures=lambda _: (out / "run.tsv").read_text(),
        )  # fmt: skip
        answers["inspect"] = _told(
            "inspect", *store, "--json", figures=lambda text: _without_sizes(json.loads(text))
        )
        answers["verify"] = _told("verify", *store)
        return answers

    def _train(self, group: str, out: Path) -> Answer:
        settings = [x for assignment in _SMALL for x in ("--set", assignment)]
        # The picture is most of the time of a training of two steps.
        with mock.patch("fmritok.trainer.training.loop.plot_losses"):
            return _told(
                "train", "--store", self.store, "--group", group, "--recipe", "tiny", "--steps", 2,
                "--loader-workers", 0, "--device", "cpu", "--out", out, *settings,
                figures=lambda _: [
                    {k: v for k, v in json.loads(line).items() if not k.endswith(_TIMES)}
                    for line in (out / "metrics.jsonl").read_text().splitlines()
                ],
            )  # fmt: skip

    def run_of(self, key: str) -> str:
        """Return the run that a file or folder belongs to; empty if it is none's alone."""
        group, _, rest = key.partition("/")
        if group not in GROUPS:
            return ""
        runs = self.runs[group]
        array, _, place = rest.partition("/")
        if array == "records":
            return place.split("/")[0] if place.split("/")[0] in set(runs["run_id"]) else ""
        index = re.match(r"c/(\d+)/", place + "/")
        if index is None or array not in BY_RUN:
            return ""
        number = int(index[1])
        if array != "tokens":
            found = runs["run_id"][runs["row"] == number]
        else:
            frame = number * self.shards[group]
            within = (runs["start"] <= frame) & (frame < runs["start"] + runs["n_frames"])
            found = runs["run_id"][within]
        return str(found.iloc[0]) if len(found) else ""

    def is_named(self, damage: Damage, text: str) -> bool:
        """Tell whether a message names what is damaged: a file, its array or table, its run."""
        text = text.lower()
        return any(name.lower() in text for key in damage.keys for name in self._names(key))

    def _names(self, key: str) -> Iterator[str]:
        yield key
        if self.run_of(key):
            yield self.run_of(key)
        whole = key.removesuffix("/zarr.json").partition("/c/")[0].removesuffix("/c")
        if whole != key and whole != "zarr.json":
            yield f"/{whole}" if whole.count("/") == 0 else whole
        group, _, rest = whole.partition("/")
        if whole == group:
            yield from (f"{kind} {group}" for kind in ("group", "table"))
        # A table is read whole: its own name will do for one of its columns.
        if group not in GROUPS and rest:
            for table in (t for t in TABLES if t in whole):
                yield from (f"table {table}", f"{table} of", f"/{table} ", f"/{table}:")
        elif rest.startswith("runs"):
            yield from (f"{group}/runs", f"runs of group {group}", f"runs of {group}")


def _told(*arguments: object, figures: Callable[[str], Any] = lambda text: text) -> Answer:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = invoke(arguments)
    found: Any = None
    if outcome.exit_code == 0 and not outcome.traceback:
        found = figures(outcome.output)
    said = sorted({f"{w.category.__name__}: {w.message}" for w in caught})
    return Answer(outcome.exit_code, found, outcome.output, outcome.traceback, said)


def _without_sizes(told: dict[str, Any]) -> dict[str, Any]:
    for group in told["groups"].values():
        del group["bytes"]
    return told


# What is done to files


def _siblings(key: str, keys: list[str]) -> list[str]:
    """Return files of the same kind: another chunk, run, column or group."""
    folder, _, name = key.rpartition("/")
    patterns = []
    if "/c/" in key:
        array, _, place = key.partition("/c/")
        patterns.append(rf"{re.escape(array)}/c/.*")  # another chunk of the array
        parent = array.rpartition("/")[0]
        patterns.append(rf"{re.escape(parent)}/[^/]+/c/{re.escape(place)}")  # another column
    elif folder:
        parent = folder.rpartition("/")[0]
        patterns.append(rf"{re.escape(parent)}/[^/]+/{re.escape(name)}")  # another run, or column
    group, _, rest = key.partition("/")
    if group in GROUPS:
        others = "|".join(g for g in GROUPS if g != group)
        patterns.append(rf"({others})/{re.escape(rest)}")
    found = []
    for pattern in patterns:
        same = [k for k in keys if k != key and re.fullmatch(pattern, k) and k not in found]
        found += same[:1] + same[-1:]
    return sorted(set(found))


def _edit_value(array: str, index: tuple[int, ...], key: str) -> Damage:
    def do(store: Path) -> bool:
        opened = zarr.open_group(store, mode="r+")[array]
        value = opened[index]
        value = value.item() if isinstance(value, np.ndarray | np.generic) else value
        if isinstance(value, str):
            other: Any = value + "x"
        elif isinstance(value, bool):
            other = not value
        else:
            other = value + 1 if value != 127 else 0
        opened[index] = other
        return bool(opened[index] != value)

    return Damage(f"a value of {array} at {index}", (key,), do)


def damages(yard: Yard, kind: str) -> list[Damage]:
    """Return all damages of a kind."""
    keys, found = yard.keys, []
    if kind == "deleted":
        found = [delete(key) for key in keys]
    elif kind == "cut":
        found = [cut(key, share) for key in keys for share in (0.5, 0.0)]
    elif kind == "flipped":
        found = [flip(key, share) for key in keys for share in (0.0, 0.4, 0.8, 1.0)]
    elif kind == "swapped":
        pairs = {tuple(sorted((key, other))) for key in keys for other in _siblings(key, keys)}
        content = {key: (yard.store / key).read_bytes() for key in keys}
        found = [swap(a, b) for a, b in sorted(pairs) if content[a] != content[b]]
    elif kind == "number":
        for key in keys:
            if key.endswith("zarr.json"):
                text = (yard.store / key).read_text()
                spans = [span for span in numbers(text) if not _only_lengthens(key, text, span)]
                chance = random.Random(f"{SEED} {key}")
                chosen = sorted(chance.sample(spans, min(FIELDS, len(spans))))
                found += [edit(key, text, span) for span in chosen]
    elif kind == "value":
        found = list(_values(yard))
    elif kind == "folder":
        folders = {str(parent) for key in keys for parent in Path(key).parents} - {"."}
        found = [remove(folder) for folder in sorted(folders)]
    return found


def _values(yard: Yard) -> Iterator[Damage]:
    root = zarr.open_group(yard.store, mode="r")
    for name, array in sorted(root.members(max_depth=None)):
        if not isinstance(array, zarr.Array) or 0 in array.shape:
            continue
        group, _, rest = name.partition("/")
        if group in GROUPS and rest == "tokens":
            for run in yard.runs[group].to_dict("records"):
                for frame in (0, int(run["n_frames"]) - 1):
                    at = int(run["start"]) + frame
                    key = f"{name}/c/{at // yard.shards[group]}/0/0"
                    yield _edit_value(name, (at, *[0] * (array.ndim - 1)), key)
            continue
        chunks = array.chunks
        for first in sorted({0, array.shape[0] - 1}):
            index = (first, *[0] * (array.ndim - 1))
            place = "/".join(str(i // n) for i, n in zip(index, chunks, strict=True))
            yield _edit_value(name, index, f"{name}/c/{place}")


# What is said then


def _only_lengthens(key: str, text: str, span: tuple[int, int]) -> bool:
    """Tell whether a number is the length of an array of runs or frames.

    A longer one is no damage: a plan that was interrupted leaves it, and the next one goes on.
    """
    if key.split("/")[1:] not in [[name, "zarr.json"] for name in BY_RUN]:
        return False
    return span == next(one for one in numbers(text) if one[0] > text.index('"shape"'))


def judge(yard: Yard, damage: Damage, command: str, answer: Answer, sound: Answer) -> str:
    """Say what is wrong with an answer; empty if nothing is."""
    if answer.traceback:
        return f"traceback: {answer.traceback.strip().splitlines()[-1]}"
    if "Traceback" in answer.output or "Exception ignored" in answer.output:
        return "a traceback in its output"
    noise = [w for w in answer.warnings if w not in sound.warnings]
    if noise and not _is_left_out(yard, damage):  # scikit-learn's, of small classes
        return f"warning: {noise[0]}"
    if command == "verify":
        if answer.exit_code != 1:
            return "not reported"
        if not yard.is_named(damage, answer.output):
            return f"neither file nor run is named: {answer.output[:200]}"
        return ""
    if answer.exit_code == 0:
        if answer.figures == sound.figures or (_is_left_out(yard, damage) and command != "decode"):
            return ""
        return "other figures, and no error"
    if "Tokenize more subjects" in answer.output and _is_left_out(yard, damage):
        return ""  # without the run there are too few
    if answer.exit_code != 1:
        return f"exit status {answer.exit_code}: {answer.output.strip().splitlines()[-1]}"
    _, _, message = answer.output.partition("Error: ")
    if not message or "\n" in message.strip():
        return f"not one line: {message.strip()[:200]!r}"
    if not yard.is_named(damage, message):
        return f"neither file nor run is named: {message.strip()[:200]}"
    return ""


def _is_left_out(yard: Yard, damage: Damage) -> bool:
    """Tell whether a run was left without its record: it does not exist then, as documented."""
    (key, *others) = damage.keys
    record = re.fullmatch(r"[^/]+/records/[^/]+(/zarr\.json)?", key)
    return bool(record and not others and "delete" in damage.what and yard.run_of(key))


@pytest.fixture(scope="module")
def yard(fast_folder: Path) -> Iterator[Yard]:
    with zarr_in_this_thread():
        yield Yard(fast_folder)


@pytest.mark.parametrize(
    "kind", ["deleted", "cut", "flipped", "swapped", "number", "value", "folder"]
)
def test_damage_is_an_error_or_changes_nothing(
    kind: str, yard: Yard, request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    yard.place.bring(yard.state)
    chosen = damages(yard, kind)
    if not request.config.getoption("--all-cases"):
        how_many = request.config.getoption("--cases") or SAMPLE
        chance = random.Random(f"{SEED} {kind}")
        chosen = chance.sample(chosen, min(how_many, len(chosen)))
    cases, wrong = 0, []
    for damage in chosen:
        group = damage.keys[0].split("/")[0]
        if group not in GROUPS:  # the whole store's
            group = list(GROUPS)[len(damage.what) % len(GROUPS)]
        run_id = yard.run_of(damage.keys[0]) or str(yard.runs[group]["run_id"].iloc[0])
        sound = yard.sound(group, run_id)
        yard.place.bring(yard.state)
        if not damage.do(yard.store):
            continue
        try:
            answers = in_child(lambda group=group, run_id=run_id: yard.ask(group, run_id))
        except ChildError as error:
            cases += len(COMMANDS)
            lines = str(error).strip().splitlines()
            at = next((line for line in lines if "/pipeline/" in line or "/trainer/" in line), "")
            wrong.append(f"commands: no answer: {lines[0]} {at.strip()}: {damage.what}")
            continue
        for command, answer in answers.items():
            cases += 1
            if what := judge(yard, damage, command, answer, sound[command]):
                wrong.append(f"{command}: {what}: {damage.what}")
    record_property("damage", [kind, cases, len(wrong)])
    third = Counter(_kind(line) for line in wrong)
    record_property("third", [f"{n} x {kind}, {line}" for line, n in third.most_common()])
    told = "\n".join(wrong if request.config.getoption("--cases") else wrong[:20])
    assert not wrong, f"{len(wrong)} of {cases} answers are neither right nor an error:\n{told}"
    assert cases


def _kind(line: str) -> str:
    """Return a third outcome without what differs among those of one kind."""
    command, what, *_ = line.split(": ", 2)
    more = line.split(": ")[2] if what in ("traceback", "warning", "no answer") else ""
    return f"{command}: {what}{': ' if more else ''}{more}"[:120]
