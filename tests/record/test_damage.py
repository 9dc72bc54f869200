"""Every file of a training is damaged in every way; it goes on as if whole, or says what is wrong.

Commands that read a training give what they give of the undamaged one, or one error that names
the file or its checkpoint. A sample of the damages is tried; ``--cases N`` and ``--all-cases`` try
more.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from children import ChildError, in_child
from damages import Damage, cut, delete, edit, flip, numbers, remove, swap
from faults import Outcome, invoke
from safetensors.torch import load_file, save_file
from this_thread import zarr_in_this_thread
from trainings import Result, Trainings, probed, quick_and_seen

SEED = 20261126
#: Damages of a kind, when not all are tried.
SAMPLE = 1
#: Numbers of one file that are edited.
FIELDS = 8
KINDS = ("deleted", "cut", "flipped", "swapped", "number", "tensor", "folder")


class Yard:
    """A training that was killed, and what commands make of it."""

    def __init__(self, folder: Path) -> None:
        self.trainings = Trainings(folder)
        self.place, self.root = self.trainings.place, self.trainings.root
        self.place.bring(self.trainings.stopped)
        self.ask()  # imports what all children need
        self.place.bring(self.trainings.stopped)
        self.sound = in_child(self.ask)
        assert all(told.exit_code == 0 for told, _ in self.sound.values()), self.sound
        self.place.bring(self.trainings.stopped)
        self.keys = [key for key in self.place.names() if key.startswith("t/")]
        assert self.sound["resume"][1] == self.trainings.wanted

    def ask(self) -> dict[str, tuple[Outcome, Any]]:
        """Run every command, with what came of it; the last one changes the training."""
        trainings, root, answers = self.trainings, self.root, {}
        commands: dict[str, tuple[list[str], Callable[[str], Any]]] = {
            "probe": (trainings.probe(), probed),
            "init": (trainings.new("--init-from", root / "t", "--steps", 2, out="i"),
                     lambda _: Result.of(root / "i")),
            "step 4": (trainings.resume("t/checkpoints/step-00000004", "--out", root / "b"),
                       lambda _: Result.of(root / "b")),
            "resume": (trainings.resume(), lambda _: Result.of(root / "t")),
        }  # fmt: skip
        for name, (arguments, read) in commands.items():
            told = invoke(arguments)
            answers[name] = (told, read(told.output) if told.exit_code == 0 else None)
        return answers


def damages(yard: Yard, kind: str) -> list[Damage]:
    """Return all damages of a kind."""
    keys, root = yard.keys, yard.root
    if kind == "deleted":
        return [delete(key) for key in keys]
    if kind == "cut":
        return [cut(key, share) for key in keys for share in (0.9, 0.5, 0.0)]
    if kind == "flipped":
        return [flip(key, share) for key in keys for share in (0.0, 0.1, 0.4, 0.8, 1.0)]
    if kind == "swapped":
        pairs = {(a, b) for a in keys for b in keys if a < b and Path(a).suffix == Path(b).suffix}
        content = {key: (root / key).read_bytes() for key in keys}
        return [swap(a, b) for a, b in sorted(pairs) if content[a] != content[b]]
    if kind == "number":
        found = []
        for key in (k for k in keys if Path(k).suffix in (".json", ".jsonl", ".yaml")):
            text = (root / key).read_text()
            chance = random.Random(f"{SEED} {key}")
            spans = numbers(text)
            chosen = sorted(chance.sample(spans, min(FIELDS, len(spans))))
            found += [edit(key, text, span) for span in chosen]
        return found
    if kind == "tensor":
        files = [key for key in keys if key.endswith(".safetensors")]
        return [
            Damage(f"{what.__name__} tensor {name} of {key}", (key,), partial(what, key, name))
            for key in files
            for name in sorted(load_file(root / key))
            for what in (_without, _other)
        ]
    folders = {str(parent) for key in keys for parent in Path(key).parents} - {".", "t"}
    return [remove(folder) for folder in sorted(folders)]


def _without(key: str, name: str, root: Path) -> bool:
    """Leave a tensor out of a file that is well-formed otherwise."""
    tensors = load_file(root / key)
    save_file({k: v.clone() for k, v in tensors.items() if k != name}, root / key)
    return True


def _other(key: str, name: str, root: Path) -> bool:
    """Change a tensor of a file that is well-formed otherwise."""
    tensors = load_file(root / key)
    save_file({k: v + (k == name) for k, v in tensors.items()}, root / key)
    return True


def judge(damage: Damage, name: str, answer: tuple[Outcome, Any], sound: Any) -> str:
    """Say what is wrong with an answer; empty if nothing is."""
    told, figures = answer
    if told.traceback:
        return f"traceback: {told.traceback.strip().splitlines()[-1]}"
    if "Traceback" in told.output or "Exception ignored" in told.output:
        return "a traceback in its output"
    if told.exit_code == 0:
        # A checkpoint whose folder is gone was never there.
        if figures == sound or (damage.what.startswith("delete the folder") and name != "resume"):
            return ""
        return "another result, and no error"
    if told.exit_code not in (1, 2):  # while working, or by the options
        return f"exit status {told.exit_code}: {told.output.strip().splitlines()[-1]}"
    _, _, message = told.output.partition("Error: ")
    if not message or "\n" in message.strip():
        return f"not one line: {message.strip()[:200]!r}"
    names = [n for key in damage.keys for n in (Path(key).name, Path(key).parent.name, "place/t:")]
    if not any(n in message for n in names if n != "t"):
        return f"neither file nor checkpoint is named: {message.strip()[:200]}"
    return ""


@pytest.fixture(scope="module")
def yard(fast_folder: Path) -> Iterator[Yard]:
    with zarr_in_this_thread(), quick_and_seen():
        yield Yard(fast_folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_training_ends_as_a_whole_one_or_says_what_is_wrong(
    kind: str, yard: Yard, request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    yard.place.bring(yard.trainings.stopped)
    chosen = damages(yard, kind)
    if not request.config.getoption("--all-cases"):
        how_many = request.config.getoption("--cases") or SAMPLE
        chance = random.Random(f"{SEED} {kind}")
        chosen = chance.sample(chosen, min(how_many, len(chosen)))
    cases, wrong, ended = 0, [], Counter[str]()
    for damage in chosen:
        yard.place.bring(yard.trainings.stopped)
        if not damage.do(yard.root):
            continue
        try:
            answers = in_child(yard.ask)
        except ChildError as error:
            cases += len(yard.sound)
            wrong.append(f"no answer: {str(error).strip().splitlines()[-1]}: {damage.what}")
            continue
        for name, answer in answers.items():
            cases += 1
            ended[f"{name} {'went on' if answer[0].exit_code == 0 else 'refused'}"] += 1
            if what := judge(damage, name, answer, yard.sound[name][1]):
                wrong.append(f"{name}: {what}: {damage.what}")
    record_property("damage", [f"training, {kind}", cases, len(wrong)])
    record_property("third", [line[:200] for line in wrong])
    told = "\n".join(wrong if request.config.getoption("--cases") else wrong[:20])
    assert not wrong, f"{len(wrong)} of {cases} are neither right nor an error ({ended}):\n{told}"
    assert cases


def test_the_harness_sees_what_it_should_see(yard: Yard) -> None:
    """A training whose checksums are made to fit its damaged weights ends with another result."""
    from fmritok.pipeline.store.documents.seal import canonical_json, sha256

    yard.place.bring(yard.trainings.stopped)
    folder = yard.root / "t" / "checkpoints" / "step-00000004"
    _other("t/checkpoints/step-00000004/model.safetensors", "head.bias", yard.root)
    state = json.loads((folder / "state.json").read_bytes())
    state["files"]["model.safetensors"] = sha256((folder / "model.safetensors").read_bytes())
    del state["digest"]
    state["digest"] = sha256(canonical_json(state))
    (folder / "state.json").write_bytes(canonical_json(state))
    answers, damage = in_child(yard.ask), Damage("forged", ("t/x",), lambda _: True)
    told = {name: judge(damage, name, a, yard.sound[name][1]) for name, a in answers.items()}
    assert set(told.values()) == {"another result, and no error"}, told
