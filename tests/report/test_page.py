"""The report is one whole page: nothing outside of it, and what is missing is named."""

from __future__ import annotations

import json
import math
import shutil
from html.parser import HTMLParser

import pytest
from people import a_task, write_scores
from stores import write_two_groups
from tiny import fmritok

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Read a page strictly: every tag is closed in order; addresses are gathered."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.images = 0
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("src", "href") if name in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        self.images += tag == "img"
        if tag == "img":
            assert values["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a store of two groups with a failed run, a training and scores."""
    folder = tmp_path_factory.mktemp("report")
    reason = "<script>alert(1)</script> NaN in 3 frames"
    store = write_two_groups(folder / "tokens.zarr", failed=reason)
    trained = fmritok("train", "--store", store, "--group", "network", "--steps", "3", "--recipe",
                      "tiny", "--out", folder / "training", "--device", "cpu",
                      "--set", "data.window=32", "--loader-workers", "0")  # fmt: skip
    assert trained.exit_code == 0, trained.output
    write_scores(folder / "scores", a_task(), dummy=True)
    return folder


def report(folder, *more: object, out: str = "report.html") -> tuple[Page, str]:
    result = fmritok("report", "--store", folder / "tokens.zarr", "--out", folder / out, *more)
    assert result.exit_code == 0, result.output
    html = (folder / out).read_text()
    return Page(html), html


@pytest.fixture(scope="module")
def whole(folder) -> tuple[Page, str]:
    """Return the report of all of it."""
    return report(folder, "--training", folder / "training", "--scores", folder / "scores")


def test_the_page_is_whole_and_needs_nothing_else(whole):
    page, html = whole
    inside = [one for one in page.addresses if one.startswith("#")]
    assert {one[1:] for one in inside} <= set(page.ids)
    others = [one for one in page.addresses if not one.startswith("#")]
    assert others
    assert all(one.startswith("data:") for one in others)
    for word in ("<script", "http://", "https://", "url(", "@import", "srcset"):
        assert word not in html, word
    assert html.startswith("<!DOCTYPE html>")
    # two carpets, a map of parcels, a loss curve, rows and predictions of a task
    assert page.images == 6
    assert "Mother_ID" not in page.text  # ids identify people
    for words in ("alert(1)", "NaN in 3 frames", "Verdict:", "auroc", "dummy", "mean_fd", "24",
                  "Brain-Semantoks", "probe minus dummy", "sha256"):  # fmt: skip
        assert words in page.text, words


def test_an_exported_encoder_is_reported_without_a_loss_curve(folder, whole, tmp_path):
    done = fmritok("export", folder / "training", "--out", tmp_path / "model",
                   "--license", "cc-by-4.0")  # fmt: skip
    assert done.exit_code == 0, done.output
    scores = ("--scores", folder / "scores")
    page, _ = report(folder, "--training", tmp_path / "model", *scores, out="model.html")
    trained, _ = whole
    assert page.images == trained.images - 1
    for words in ("Model model has no loss curve", "Give the folder of the training",
                  "cc-by-4.0", "3 steps with batches of"):  # fmt: skip
        assert words in page.text, words
    for words in ("Verdict:", "network (tokenizer network)", "was pretrained without labels"):
        assert words in page.text, words
        assert words in trained.text, words


def test_imported_weights_are_not_reported_as_a_training(folder, data, tmp_path):
    done = fmritok("import", "tablet", data / "parity" / "tablet", "--out", tmp_path / "model",
                   "--set", "vae.weights=dcae-tiny")  # fmt: skip
    assert done.exit_code == 0, done.output
    page, _ = report(folder, "--training", tmp_path / "model", out="imported.html")
    for words in ("apache-2.0", "had the released weights of TABLeT"):
        assert words in page.text, words
    for words in ("steps with batches of", "AdamW", "Give the folder of the training"):
        assert words not in page.text, words


def test_damaged_and_missing_parts_are_named_in_the_page(folder, tmp_path):
    damaged = shutil.copytree(folder / "scores", tmp_path / "damaged")
    (damaged / "predictions.csv").write_text("nothing")
    silent = shutil.copytree(folder / "training", tmp_path / "silent")
    (silent / "metrics.jsonl").unlink()
    assert fmritok("export", folder / "training", "--out", tmp_path / "model").exit_code == 0
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nothing")
    page, _ = report(folder, "--scores", damaged, "--scores", folder / "scores", "--training",
                     silent, "--training", tmp_path, "--training", tmp_path / "model",
                     out="damaged.html")  # fmt: skip
    assert "notes" in page.ids
    for words in (
        f"Folder of scores {damaged} is left out",
        "another predictions.csv",
        "Training silent has no loss curve",
        f"Training {tmp_path} is left out",
        f"Training {tmp_path / 'model'} is left out",
        "model.safetensors",
    ):
        assert words in page.text, words
    assert page.images == 5
    assert "probe minus dummy" in page.text


def test_a_store_without_phenotypes_has_a_report_that_says_so(folder, tmp_path):
    write_two_groups(tmp_path / "tokens.zarr", n_subjects=2, phenotypes=False)
    page, _ = report(tmp_path, "--training", folder / "training")
    assert "no phenotypes" in page.text
    assert "other tokens than this store" not in page.text
    assert "Head motion is unknown" in page.text


def test_wrong_paths_are_one_error(folder, tmp_path):
    wrong = fmritok("report", "--store", tmp_path / "none.zarr", "--out", tmp_path / "r.html")
    assert wrong.exit_code != 0
    assert "Traceback" not in wrong.output
    assert not (tmp_path / "r.html").exists()
    missing = fmritok("report", "--store", folder / "tokens.zarr", "--scores", tmp_path / "none")
    assert missing.exit_code == 2


def test_facts_of_the_page_are_those_of_the_store(folder):
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.report.cohort import read_cohort

    facts = read_cohort(TokenStore(folder / "tokens.zarr"))
    by_task = {kind["task"]: kind for kind in facts.kinds}
    assert by_task["rest"]["subjects"] == by_task["motor"]["runs"] == 12
    assert by_task["rest"]["left_out"] == 1
    (excluded,) = facts.excluded
    assert (excluded["count"], excluded["runs"]) == (1, ["demo_bad"])
    assert excluded["groups"] == "network"
    (motion,) = facts.motion
    assert motion["n"] == 12
    assert 0.1 < motion["median"] < 0.4
    assert json.dumps(facts.kinds)


def test_head_motion_of_the_runs_goes_before_that_of_the_phenotypes(tmp_path):
    from fmritok.pipeline.store.group import read_group
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.pipeline.store.tables.switch import replace_tables
    from fmritok.report.cohort import read_cohort

    location = Location(write_two_groups(tmp_path / "tokens.zarr", n_subjects=2))
    for name in ("network", "cells"):
        state = read_group(location, name)
        motion = [0.5, 0.7, 0.6, math.nan] if name == "network" else math.nan  # of one group only
        runs = state.table("runs").assign(motion=motion)
        replace_tables(location, state.document, {"runs": runs, "chunks": state.table("chunks")})
    (motion,) = read_cohort(TokenStore(location.url)).motion
    assert (motion["dataset"], motion["n"], motion["median"]) == ("demo", 3, 0.6)
