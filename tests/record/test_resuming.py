"""What a resumed training may differ in, and what it may not; states of older releases."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from trainers import trainer_on_cpu

from fmritok.cli import main
from fmritok.pipeline.store.documents.seal import canonical_json, sha256
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.errors import CheckpointError, TrainingError
from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import read_metrics
from fmritok.trainer.record.resuming import FREE

SMALL = [
    "data.window=8", "data.windows_per_run=2", "data.batch_size=4", "data.validation_fraction=0.3",
    "model.width=16", "model.layers=1", "model.mlp_width=16", "train.steps=6",
    "train.validate_every=3", "train.checkpoint_every=3", "train.log_every=2",
]  # fmt: skip
LENGTHS = [20, 9, 16, 12, 10]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def group(make_store):
    return TokenStore(make_store(LENGTHS, n_tokens=3, dim=4)[0].url).group()


@pytest.fixture
def other(make_store, tmp_path):
    """Return the same runs with other tokens."""
    url = str(tmp_path / "other.zarr")
    return TokenStore(make_store(LENGTHS, n_tokens=3, dim=4, url=url, seed=1)[0].url).group()


def _trainer(group, out, *overrides, **options):
    return trainer_on_cpu([*SMALL, *overrides], group, out, **options)


def _stopped(group, out, *overrides, keep=1):
    """Train, and leave what a kill after five of six steps would."""
    _trainer(group, out, *overrides).run()
    for path in TrainingFolder(out).checkpoints()[keep:]:
        shutil.rmtree(path)
    return find_checkpoint(out)


def _weights(out):
    return (find_checkpoint(out).folder / "model.safetensors").read_bytes()


def _edited(checkpoint, change):
    """Change a state, and seal it again, as another release would have written it."""
    file = checkpoint.folder / "state.json"
    state = json.loads(file.read_bytes())
    change(state)
    state.pop("digest", None)
    if state["format"].endswith("2"):
        state["digest"] = sha256(canonical_json(state))
    file.write_bytes(canonical_json(state))


def test_redone_runs_and_another_cohort_are_refused_by_the_first_run_that_differs(
    group, other, tmp_path
):
    out = tmp_path / "a"
    checkpoint = _stopped(group, out)
    assert other.contract == group.contract
    first = json.loads((checkpoint.folder / "runs.json").read_bytes())["train"]
    run, trained = next(iter(first.items()))
    now = other.run(run)["checksum"]
    wanted = rf"Tokens of run {run} .*checksum = '{trained['checksum']}' .*got '{now}'.*--init-from"
    with pytest.raises(CheckpointError, match=wanted):
        _trainer(other, out, resume=out)
    _trainer(other, tmp_path / "b", init_from=out)  # a new training may
    held_out = json.loads((checkpoint.folder / "runs.json").read_bytes())["validation"]
    redone = group.runs.copy()
    redone.loc[redone["run_id"] == next(iter(held_out)), "checksum"] = now
    group.runs = redone
    with pytest.raises(CheckpointError, match=f"Tokens of run {next(iter(held_out))} "):
        _trainer(group, out, resume=out)


@pytest.mark.parametrize(("column", "value"), [("tr", 2.0), ("n_frames", 9)])
def test_equal_tokens_at_other_times_are_refused(group, tmp_path, column, value):
    _stopped(group, tmp_path)
    group.runs = group.runs.assign(**{column: value})
    with pytest.raises(CheckpointError, match=rf"Tokens of run .* expected {column} = "):
        _trainer(group, tmp_path, resume=tmp_path)


def test_a_missing_run_is_named(group, tmp_path):
    checkpoint = _stopped(group, tmp_path)
    (run, *_) = json.loads((checkpoint.folder / "runs.json").read_bytes())["validation"]
    group.runs = group.runs[group.runs["run_id"] != run].reset_index(drop=True)
    with pytest.raises(CheckpointError, match=f"Tokens of run {run} .*no finished run of that id"):
        _trainer(group, tmp_path, resume=tmp_path)


def test_stores_of_a_mix_are_compared_and_with_weights_their_order_too(make_store, tmp_path):
    groups = []
    for i, lengths in enumerate(([20, 16], [12, 10, 9], [12, 10, 9])):
        subjects = [f"{min(i, 1)}{j}" for j in range(len(lengths))]
        url = str(tmp_path / f"{i}.zarr")
        make_store(lengths, n_tokens=3, dim=4, url=url, subjects=subjects, seed=i)
        groups.append(TokenStore(url).group())
    out = tmp_path / "a"
    _stopped(MixedGroup(groups[:2]), out)
    whole = _trainer(MixedGroup([groups[1], groups[0]]), out, resume=out).run()
    assert whole.step == 6
    with pytest.raises(CheckpointError, match=r"Tokens of run demo_1\d_run\d .*checksum"):
        _trainer(MixedGroup([groups[0], groups[2]]), out, resume=out)
    weighed = tmp_path / "b"
    _stopped(MixedGroup(groups[:2], [1, 2]), weighed)
    with pytest.raises(CheckpointError, match=r"expected store = \d"):
        _trainer(MixedGroup([groups[1], groups[0]], [1, 2]), weighed, resume=weighed)


CHANGES = {"train.log_every": 1, "train.validate_every": 2, "train.checkpoint_every": 2,
           "train.keep_checkpoints": 5}  # fmt: skip


def test_options_without_effect_on_the_weights_may_change(group, tmp_path):
    assert CHANGES.keys() == FREE.keys()
    _trainer(group, tmp_path / "whole").run()
    changes = [f"{name}={value}" for name, value in CHANGES.items()]
    for out in (tmp_path / "a", tmp_path / "b"):
        _stopped(group, tmp_path / "a")
        _trainer(group, out, *changes, resume=tmp_path / "a").run()
        assert _weights(out) == _weights(tmp_path / "whole")
        losses = [
            [row["loss"] for row in read_metrics(one) if row["kind"] == "train"]
            for one in (out, tmp_path / "whole")
        ]
        assert losses[0] == losses[1]
        assert find_checkpoint(out).config.train.keep_checkpoints == 5
        shutil.rmtree(tmp_path / "a")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("train.steps=9", r"train\.steps = 6 .*schedule depends on the total number of steps"),
        ("data.max_validation_windows=3", r"data\.max_validation_windows = 64 .*--init-from"),
        ("data.split_seed=1", r"data\.split_seed = 0"),
        ("train.seed=1", r"train\.seed = 0"),
    ],
)
def test_all_other_options_are_refused(group, tmp_path, option, words):
    _stopped(group, tmp_path)
    with pytest.raises(CheckpointError, match=words):
        _trainer(group, tmp_path, option, resume=tmp_path)


def test_options_that_an_older_release_did_not_have_take_their_default(group, tmp_path):
    _trainer(group, tmp_path / "whole").run()
    checkpoint = _stopped(group, tmp_path / "a")
    _edited(checkpoint, lambda state: state["config"]["objective"].pop("masking"))
    with pytest.raises(CheckpointError, match=r"objective\.masking = 'tube' .*got 'random'"):
        _trainer(group, tmp_path / "a", "objective.masking=random", resume=tmp_path / "a")
    _trainer(group, tmp_path / "a", resume=tmp_path / "a").run()
    assert _weights(tmp_path / "a") == _weights(tmp_path / "whole")


def test_options_of_other_objectives_that_an_older_release_saved_are_left_out(group, tmp_path):
    _trainer(group, tmp_path / "whole").run()
    checkpoint = _stopped(group, tmp_path / "a")
    older = {"stride": 3, "noise": 0.1, "precision": 0.05}
    _edited(checkpoint, lambda state: state["config"]["objective"].update(older))
    _trainer(group, tmp_path / "a", resume=tmp_path / "a").run()
    assert _weights(tmp_path / "a") == _weights(tmp_path / "whole")


def test_an_option_of_another_release_is_refused_by_name(group, tmp_path):
    checkpoint = _stopped(group, tmp_path)
    _edited(checkpoint, lambda state: state["config"]["optim"].update(muon=True))
    with pytest.raises(CheckpointError, match=r"optim\.muon: .*Use the fmritok release that wrote"):
        _trainer(group, tmp_path, resume=tmp_path)


def test_the_split_is_read_from_the_checkpoint(group, tmp_path):
    _trainer(group, tmp_path / "whole").run()
    split = (tmp_path / "whole" / "split.json").read_text()
    for i, edit in enumerate((Path.unlink, lambda file: file.write_text("{}"))):
        out = tmp_path / f"{i}"
        _stopped(group, out)
        edit(out / "split.json")
        _trainer(group, out, resume=out).run()
        assert (out / "split.json").read_text() == split
        assert _weights(out) == _weights(tmp_path / "whole")


def test_a_damaged_latest_checkpoint_is_skipped_with_a_warning(group, tmp_path, caplog):
    _trainer(group, tmp_path).run()
    whole, rows = _weights(tmp_path), read_metrics(tmp_path)
    latest = find_checkpoint(tmp_path).folder
    file = latest / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{file}: .*use the earlier .*step-00000003"):
        _trainer(group, tmp_path, resume=latest)
    with caplog.at_level(logging.WARNING):
        trainer = _trainer(group, tmp_path, resume=tmp_path)
    assert trainer.position.step == 3
    assert f"Going back to step-00000003. Checkpoint file {file}: " in caplog.text
    trainer.run()
    assert _weights(tmp_path) == whole
    assert [row["loss"] for row in read_metrics(tmp_path)] == [row["loss"] for row in rows]


def test_resuming_from_an_earlier_checkpoint_is_refused_if_a_later_one_is_whole(group, tmp_path):
    _trainer(group, tmp_path).run()
    early, late = TrainingFolder(tmp_path).checkpoints()
    with pytest.raises(CheckpointError, match=r"expected the latest of .*than step-00000006"):
        _trainer(group, tmp_path, resume=early)
    (late / "runs.json").unlink()
    trainer = _trainer(group, tmp_path, resume=early)
    trainer.close()
    assert trainer.position.step == 3


def _command(group, *options):
    fixed = ["train", "--store", group.location.url, "--loader-workers", "0", "--device", "cpu"]
    return CliRunner().invoke(main, [*fixed, *map(str, options)])


def test_a_finished_training_is_reported_also_in_another_folder(group, tmp_path):
    out, elsewhere = tmp_path / "a", tmp_path / "b"
    _trainer(group, out).run()
    before = (find_checkpoint(out).folder.stat().st_mtime_ns, (out / "metrics.jsonl").read_bytes())
    for options in (("--resume", out), ("--resume", out, "--out", elsewhere)):
        done = _command(group, *options)
        assert done.exit_code == 0, done.output
        assert "The training was finished before: nothing was left to do." in done.output
        assert "tokens/s" not in done.output
    after = (find_checkpoint(out).folder.stat().st_mtime_ns, (out / "metrics.jsonl").read_bytes())
    assert after == before
    assert _weights(elsewhere) == _weights(out)
    assert (elsewhere / "metrics.jsonl").read_bytes() == before[1]
    assert f"Checkpoint: {elsewhere}" in "".join(done.output.split("\n"))


def test_a_finished_training_without_validation_shows_its_last_figures(group, tmp_path):
    done = _trainer(group, tmp_path, "data.validation_fraction=0").run()
    again = _trainer(group, tmp_path, "data.validation_fraction=0", resume=tmp_path).run()
    assert again.rate is None
    assert not again.validated
    assert again.figures["residual_loss"] == done.figures["residual_loss"]


def test_an_incomplete_row_is_removed(group, tmp_path):
    _trainer(group, tmp_path / "whole").run()
    wanted = read_metrics(tmp_path / "whole")
    _stopped(group, tmp_path / "a")
    file = tmp_path / "a" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    assert len(read_metrics(tmp_path / "a")) == 5
    _trainer(group, tmp_path / "a", resume=tmp_path / "a").run()
    rows = read_metrics(tmp_path / "a")
    assert [row["loss"] for row in rows] == [row["loss"] for row in wanted]


def test_changes_of_the_metrics_by_others_stop_the_training(group, tmp_path):
    trainer = _trainer(group, tmp_path)
    (tmp_path / "metrics.jsonl").write_text(9999 * "{}\n")
    with pytest.raises(TrainingError, match="expected the rows that this training wrote"):
        trainer.run()


def test_resuming_a_copied_checkpoint_needs_out(group, tmp_path):
    checkpoint = _stopped(group, tmp_path / "a")
    copy = tmp_path / "copies" / "best"
    shutil.copytree(checkpoint.folder, copy)
    done = _command(group, "--resume", copy)
    assert done.exit_code == 2
    assert "--out: expected a folder" in done.output
    done = _command(group, "--resume", copy, "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert len(read_metrics(tmp_path / "b")) == 8
    assert not list((tmp_path / "copies").glob("*.yaml"))


@pytest.mark.parametrize("option", ["--resume", "--init-from"])
def test_a_checkpoint_is_refused_as_out(group, tmp_path, option):
    checkpoint = _stopped(group, tmp_path / "a")
    copy = tmp_path / "best"
    shutil.copytree(checkpoint.folder, copy)
    done = _command(group, option, copy, "--out", copy)
    assert done.exit_code == 1
    assert "a folder that is not a checkpoint, got a checkpoint" in " ".join(done.output.split())
    find_checkpoint(copy).check()
    assert sorted(p.name for p in copy.iterdir()) == sorted(
        p.name for p in checkpoint.folder.iterdir()
    )


def test_resuming_from_weights_alone_is_refused(group, tmp_path):
    checkpoint = _stopped(group, tmp_path)
    done = _command(group, "--resume", checkpoint.folder / "model.safetensors")
    assert done.exit_code == 1
    assert "start a new training with --init-from FILE" in " ".join(done.output.split())


def test_resuming_from_a_wrong_path_creates_no_folder(group, tmp_path):
    done = _command(group, "--resume", tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "got nothing. Check the path." in " ".join(done.output.split())
    assert not (tmp_path / "nowhere").exists()


# tests/record/format1_training: what fmritok 0.1 (commit 6dd003f) left of this training of SMALL
# with train.seed=3 on the store of `make_store(LENGTHS, n_tokens=3, dim=4)`, without its
# checkpoint of step 6. Its metrics.jsonl has the rows of all six steps: what a resumed training
# has to repeat.
FORMAT_1 = Path(__file__).parent / "format1_training"
AS_SAVED = ["train.seed=3", "model.convolution=causal"]  # the options of FORMAT_1


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(FORMAT_1, tmp_path / "old"))


def test_a_training_of_format_1_resumes_exactly_and_reports_missing_checks(
    group, old, tmp_path, caplog
):
    wanted = read_metrics(old)
    with caplog.at_level(logging.WARNING):
        trainer = _trainer(group, old, *AS_SAVED, resume=old)
    assert "it has no checksums. Its files and tokens were not" in caplog.text
    assert trainer.position.step == 3
    trainer.run()
    rows = read_metrics(old)
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for row, before in zip(rows, wanted, strict=True):
        assert row["loss"] == pytest.approx(before["loss"], rel=1e-5)
    assert find_checkpoint(old).is_sealed
    new = _trainer(group, tmp_path / "new", init_from=FORMAT_1 / "checkpoints" / "step-00000003")
    assert new.position.step == 0


def test_a_training_of_format_1_keeps_its_split(group, old):
    """It was drawn by train.seed, which no longer draws it."""
    saved = json.loads((old / "split.json").read_text())
    trainer = _trainer(group, old, *AS_SAVED, resume=old)
    trainer.close()
    assert list(trainer.split.validation) == saved["validation"]["runs"]
    (old / "split.json").unlink()
    with pytest.raises(CheckpointError, match="expected a readable split.json"):
        _trainer(group, old, *AS_SAVED, resume=old)


def test_a_sweep_over_seeds_keeps_the_held_out_subjects(group, tmp_path):
    held_out = set()
    for seed in range(4):
        trainer = _trainer(group, tmp_path / f"{seed}", f"train.seed={seed}")
        trainer.close()
        held_out.add(trainer.split.validation)
    assert len(held_out) == 1
