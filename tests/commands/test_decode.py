"""``decode --frames`` means what it says: one frame, or consecutive frames of the run."""

from __future__ import annotations

import pytest
from tiny import fmritok, tokenize_options, write_atlas, write_cohort

FRAMES = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decode")
    root = write_cohort(folder / "cohort", ["100001", "100002"], frames=FRAMES)
    done = fmritok(*tokenize_options(root, folder / "t.zarr", write_atlas(folder / "atlas")))
    assert done.exit_code == 0, done.output
    return folder / "t.zarr"


def decode(store, out, frames, *more):
    return fmritok("decode", "--store", store, "--run", "hcp_100001_tfMRI_MOTOR_LR",
                   f"--frames={frames}", "--out", out, *more)  # fmt: skip


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """Return the lines of the whole run."""
    out = tmp_path_factory.mktemp("whole") / "whole.tsv"
    assert decode(store, out, ":").exit_code == 0
    return out.read_text().splitlines()


@pytest.mark.parametrize(("frames", "count"), [
    ("5", 1), ("0", 1), ("11", 1), ("5:9", 4), ("5:", 7), (":9", 9), (":", 12), ("0:12", 12),
])  # fmt: skip
def test_one_frame_or_a_range_is_decoded(store, whole, tmp_path, frames, count):
    result = decode(store, tmp_path / "run.tsv", frames)
    assert result.exit_code == 0, result.output
    header, *rows = (tmp_path / "run.tsv").read_text().splitlines()
    assert len(rows) == count
    first = int(frames.split(":")[0] or 0)
    assert rows == whole[1 + first : 1 + first + count]


@pytest.mark.parametrize(
    "frames", ["", "-1", "-3:", "5:5", "9:5", "5:9:2", "1.5", "5,7", "five", ":0", "12", "5:13"]
)
def test_other_frames_are_refused_and_nothing_is_written(store, tmp_path, frames):
    result = decode(store, tmp_path / "run.tsv", frames)
    assert result.exit_code == 2, result.output
    assert result.output.count("expected") == 1
    assert not (tmp_path / "run.tsv").exists()


@pytest.mark.parametrize("option", ["template", "weights"])
def test_options_of_other_tokenizers_are_refused(store, tmp_path, option):
    result = decode(store, tmp_path / "run.tsv", ":", f"--{option}", tmp_path)
    assert result.exit_code == 2, result.output
    assert f"--{option}: expected an option of tokenizer network" in result.output
    assert not (tmp_path / "run.tsv").exists()
