"""A finished run belongs to its source; another cohort's ids never inherit its tokens."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from cohorts import write_phenotypes, write_run

from fmritok.cli import main
from fmritok.pipeline.catalog.cohort import RunFile
from fmritok.pipeline.catalog.run_checks import stamp_of
from fmritok.pipeline.datasets import catalog_cohort
from fmritok.pipeline.sources.opening import RunFiles, source_sha256
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.locking import one_writer
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.verify import verify_store
from fmritok.pipeline.tokenization.plan import commit_plan, plan_group
from fmritok.tokenizers.registry import build_tokenizer

RUNS = ["hcp_100001_rfMRI_REST1_LR", "hcp_100002_rfMRI_REST1_LR"]


def cohort(root, *, seed=0, frames=4, sex="M", subjects=("100001", "100002"), name="REST1"):
    for i, subject in enumerate(subjects):
        write_run(root, subject, f"rfMRI_{name}_LR", frames=frames, seed=seed + i)
    write_phenotypes(root, list(subjects))
    table = root / "unrestricted_lab_1_1_2026.csv"
    table.write_text(table.read_text().replace(",F,", f",{sex},").replace(",M,", f",{sex},"))
    return root


def tokenize(root, store, *options):
    done = CliRunner().invoke(
        main,
        ["tokenize", "--dataset", "hcp", "--root", str(root), "--store", str(store),
         "--tokenizer", "network", "--set", "network.band=null", "--set", "network.tr=null",
         "--executor", "serial", *options],
    )  # fmt: skip
    assert "Traceback" not in done.output
    return done


def contents(store):
    group = TokenStore(store).group("network")
    tokens = {run_id: group.values(run_id) for run_id in group.runs["run_id"]}
    return tokens, TokenStore(store).phenotypes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a cohort of two runs, and its store."""
    folder = tmp_path_factory.mktemp("bound")
    root = cohort(folder / "hcp")
    assert tokenize(root, folder / "t.zarr").exit_code == 0
    return root, folder / "t.zarr"


@pytest.fixture
def tree(made, tmp_path):
    """Return copies of the cohort, with the times of its files, and of the store."""
    root, store = made
    shutil.copytree(root, tmp_path / "hcp")
    shutil.copytree(store, tmp_path / "t.zarr")
    return tmp_path / "hcp", tmp_path / "t.zarr"


def run_file(root, subject="100001"):
    return next(root.glob(f"{subject}/**/*.nii.gz"))


def test_the_same_cohort_is_tokenized_once(tree):
    root, store = tree
    before = Location(store).find("")
    again = tokenize(root, store)
    assert again.exit_code == 0, again.output
    assert "has 2 runs already" in again.output
    assert Location(store).find("") == before


def test_the_same_ids_of_another_cohort_are_refused_and_change_nothing(tree, tmp_path):
    _, store = tree
    tokens, phenotypes = contents(store)
    other = cohort(tmp_path / "other", seed=50, sex="F")
    refused = tokenize(other, store)
    assert refused.exit_code == 1
    assert f"Source of run {RUNS[0]} in group network" in refused.output
    assert "expected size in bytes = " in refused.output
    assert "give it a name with --name" in refused.output
    assert f"--redo {RUNS[0]}" in refused.output
    now, table = contents(store)
    assert table.equals(phenotypes)
    assert all((now[run_id] == tokens[run_id]).all() for run_id in RUNS)
    assert tokenize(other, store, "--dry-run").exit_code == 1
    # Nor are they taken into another group of the store.
    assert tokenize(other, store, "--group", "second").exit_code == 1
    assert tokenize(other, store, "--name", "other").exit_code == 0
    now, table = contents(store)
    assert all((now[run_id] == tokens[run_id]).all() for run_id in RUNS)
    assert table.groupby("dataset")["sex"].unique().map(list).to_dict() == {
        "hcp": ["M"], "other": ["F"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: ("--tr", "2.0"), "time in s = 0.72, as when it was tokenized, got 2"),
        (lambda root: write_run(root, "100001", frames=5) and (), "size in bytes = "),
    ],
    ids=["tr", "frames"],
)  # fmt: skip
def test_a_run_that_changed_is_refused_by_name(tree, change, said):
    root, store = tree
    options = change(root)
    refused = tokenize(root, store, *options)
    assert refused.exit_code == 1
    assert said in refused.output


def test_a_file_of_the_same_size_with_other_content_is_refused(tree):
    root, store = tree
    path = run_file(root)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    refused = tokenize(root, store)
    assert refused.exit_code == 1
    assert "content (sha256) = " in refused.output


def test_files_that_were_copied_without_their_times_are_the_same(tree):
    root, store = tree
    os.utime(run_file(root), (1e9, 1e9))
    again = tokenize(root, store)
    assert again.exit_code == 0, again.output
    assert "Comparing the content" in again.output
    assert "Comparing the content" not in tokenize(root, store).output


def test_runs_that_changed_are_redone_when_asked(tree):
    root, store = tree
    tokens, _ = contents(store)
    write_run(root, "100001", frames=6, seed=9)
    done = tokenize(root, store, "--redo", "changed")
    assert done.exit_code == 0, done.output
    now, _ = contents(store)
    assert len(now[RUNS[0]]) == 6
    np.testing.assert_array_equal(now[RUNS[1]], tokens[RUNS[1]])
    assert list(verify_store(Location(store))) == []
    assert "has 2 runs already" in tokenize(root, store, "--redo", "changed").output


def test_a_run_is_redone_by_name_with_the_same_result(tree):
    root, store = tree
    tokens, _ = contents(store)
    done = tokenize(root, store, "--redo", RUNS[0])
    assert done.exit_code == 0, done.output
    now, _ = contents(store)
    assert all((now[run_id] == tokens[run_id]).all() for run_id in RUNS)
    unknown = tokenize(root, store, "--redo", "sub-99")
    assert unknown.exit_code == 1
    assert "expected a run of this cohort, or changed, got sub-99" in unknown.output


def test_another_cohort_s_phenotypes_of_the_same_subjects_are_refused(tree, tmp_path):
    """Its runs have other ids, so their sources say nothing."""
    _, store = tree
    _, phenotypes = contents(store)
    other = cohort(tmp_path / "other", sex="F", name="REST2")
    refused = tokenize(other, store)
    assert refused.exit_code == 1
    assert "Phenotypes of subject 100001 of hcp" in refused.output
    assert "expected sex = 'M'" in refused.output
    assert contents(store)[1].equals(phenotypes)


def test_corrected_phenotypes_of_the_same_cohort_are_taken_over(tree):
    root, store = tree
    table = root / "unrestricted_lab_1_1_2026.csv"
    table.write_text(table.read_text().replace(",M,", ",F,"))
    assert tokenize(root, store).exit_code == 0
    assert set(contents(store)[1]["sex"]) == {"F"}


def test_a_mask_or_a_warp_belongs_to_the_source(tmp_path):
    for name in ("run", "mask", "warp"):
        (tmp_path / name).write_text(name)
    paths = {name: str(tmp_path / name) for name in ("run", "mask", "warp")}
    alone = source_sha256(RunFiles(paths["run"]))
    whole = RunFiles(paths["run"], mask=paths["mask"], warp=paths["warp"])
    digest = source_sha256(whole)
    assert digest == source_sha256(whole, data=alone)
    (tmp_path / "mask").write_text("other")
    assert source_sha256(whole) not in (alone, digest)


def task_run(root, subject, onset, **options):
    """Add a run with an event."""
    path = write_run(root, subject, "tfMRI_MOTOR_LR", **options)
    (path.parent / "EVs").mkdir(exist_ok=True)
    (path.parent / "EVs" / "cue.txt").write_text(f"{onset} 1.0 1\n")
    return path


def spoil(path):
    path.write_bytes(path.read_bytes()[:20])


def test_a_foreign_cohort_of_damaged_files_replaces_no_phenotypes_and_no_events(tree, tmp_path):
    root, store = tree
    task_run(root, "100001", 1.0)
    assert tokenize(root, store).exit_code == 0
    before = contents(store)[1]
    other = cohort(tmp_path / "other", seed=50, sex="F")
    for path in (*other.glob("**/*.nii.gz"), task_run(other, "100001", 3.0)):
        spoil(path)
    assert tokenize(other, store).exit_code == 1
    kept = tokenize(other, store, "--redo", "changed")
    assert kept.exit_code == 1
    assert f"{RUNS[0]} stays as it was tokenized; its files changed" in kept.output
    assert contents(store)[1].equals(before)
    assert TokenStore(store).events["onset"].tolist() == [1.0]


def test_a_finished_run_whose_file_is_cut_off_now_is_named(tree):
    root, store = tree
    tokens, _ = contents(store)
    spoil(run_file(root))
    assert f"Source of run {RUNS[0]}" in tokenize(root, store).output
    assert tokenize(root, store, "--redo", "changed").exit_code == 1
    refused = tokenize(root, store, "--redo", RUNS[0])
    assert refused.exit_code == 1
    assert "expected a run that can be tokenized" in refused.output
    now, _ = contents(store)
    assert all((now[run_id] == tokens[run_id]).all() for run_id in RUNS)


def test_more_phenotypes_of_another_cohort_s_subjects_are_refused(tree, tmp_path):
    """They contradict nothing, and are somebody else's."""
    _, store = tree
    before = contents(store)[1]
    other = cohort(tmp_path / "other", sex="M", name="REST2")
    for table in other.glob("*.csv"):
        table.unlink()
    (other / "unrestricted_lab_1_1_2026.csv").write_text("Subject,Height\n100001,170\n100002,180\n")
    refused = tokenize(other, store)
    assert refused.exit_code == 1
    assert "expected Height = nothing, as in the store" in refused.output
    assert contents(store)[1].equals(before)


def test_a_cohort_with_fewer_tables_than_before_loses_no_phenotypes(tree):
    root, store = tree
    before = contents(store)[1]
    assert "Family_ID" in before
    next(root.glob("RESTRICTED*")).unlink()
    assert tokenize(root, store).exit_code == 0
    after = contents(store)[1]
    assert after["Family_ID"].tolist() == before["Family_ID"].tolist()


def test_events_of_a_run_that_is_redone_are_those_of_its_new_files(tree):
    root, store = tree
    task_run(root, "100001", 1.0)
    task_run(root, "100002", 2.0)
    assert tokenize(root, store).exit_code == 0
    assert TokenStore(store).events["onset"].tolist() == [1.0, 2.0]
    path = task_run(root, "100001", 1.0, frames=6, seed=9)
    (path.parent / "EVs" / "cue.txt").unlink()
    assert tokenize(root, store, "--redo", "changed").exit_code == 0
    assert TokenStore(store).events["onset"].tolist() == [2.0]


def test_two_cohorts_that_are_tokenized_into_two_groups_at_once_are_told_apart(tree, tmp_path):
    """Neither has finished a run yet, so there are no finished runs to compare."""
    root, store = tree[0], tmp_path / "new.zarr"
    other = cohort(tmp_path / "other", seed=50)
    location = Location(store)
    with one_writer(location, "first"):
        first = plan_group(build_tokenizer("network", {}), {}, name="first")
        commit_plan(location, [first], catalog_cohort("hcp", root))
        refused = tokenize(other, store, "--group", "second")
        assert refused.exit_code == 1
        assert f"Source of run {RUNS[0]} in group first" in refused.output
        assert tokenize(root, store, "--group", "third").exit_code == 0


def test_files_of_a_run_that_changed_places_are_noticed(tmp_path):
    """Both hemispheres have the same size, and keep their times when they are moved."""
    files = [tmp_path / name for name in ("left", "right")]
    for i, path in enumerate(files):
        path.write_bytes(bytes([i]) * 100)
        os.utime(path, (1e9 + i, 1e9 + i))
    run = RunFile("r", "s", files[0], right=files[1])
    before = stamp_of(run)
    assert before[:2] == ("100 100", f"{10**18} {10**18 + 10**9}")
    files[0].rename(tmp_path / "aside")
    files[1].rename(files[0])
    (tmp_path / "aside").rename(files[1])
    assert stamp_of(run) != before


def test_a_run_of_two_groups_is_redone_one_group_after_the_other(tree):
    root, store = tree
    assert tokenize(root, store, "--group", "second").exit_code == 0
    write_run(root, "100001", frames=6, seed=9)
    done = tokenize(root, store, "--redo", "changed")
    assert done.exit_code == 0, done.output
    assert f"{RUNS[0]} in group second stays as it is: tokenize that group again" in done.output
    assert f"Source of run {RUNS[0]} in group second" in tokenize(root, store).output
    assert tokenize(root, store, "--group", "second", "--redo", "changed").exit_code == 0
    assert tokenize(root, store).exit_code == 0
    assert len(TokenStore(store).group("second").values(RUNS[0])) == 6
