"""Windows and loaders that any training loop can use: what they hold, their order, exact resume."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

import fmritok
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.trainer.errors import CheckpointError, ConfigError

WINDOW = 16


@pytest.fixture
def group(make_store):
    """Open a store of eight runs; one is shorter than a window, one subject has no age."""
    location, _ = make_store([70, 5, 40, 33, 33, 33, 33, 33], n_tokens=3, dim=4)
    subjects = [f"{100 + i}" for i in range(8)]
    people = pd.DataFrame(
        {"dataset": "demo", "subject": subjects, "session": "", "sex": ["F", "M"] * 4,
         "age": [30.5, 22, 41, np.nan, 25, 26, 27, 28]}
    )  # fmt: skip
    write_annotations(location, {"phenotypes": people})
    return fmritok.open_store(location.url)["vae"]


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_a_window_holds_what_the_store_says(group):
    windows = fmritok.WindowDataset(group, window=WINDOW, form="absolute")
    assert len(windows) == 4 + 1 + 2 + 5 * 2
    ids = windows.runs["run_id"].tolist()
    starts = {}
    for i in range(len(windows)):
        window = windows[i]
        run_id = ids[int(window["run"])]
        first = starts.get(run_id, 0)
        starts[run_id] = first + WINDOW
        n = int(window["valid"].sum())
        values = group.values(run_id, first, n)
        assert window["tokens"].shape == (WINDOW, 3, 4)
        np.testing.assert_allclose(window["tokens"][:n].numpy(), values, rtol=3e-7)
        assert not window["tokens"][n:].any()
        np.testing.assert_allclose(window["times"][:n].numpy(), 0.72 * np.arange(n), rtol=1e-6)
    assert int(windows[4]["valid"].sum()) == 5


def test_forms_are_residuals_values_or_what_is_stored(group):
    items = {form: fmritok.WindowDataset(group, window=WINDOW, form=form)[0]
             for form in ("residual", "absolute", "stored")}  # fmt: skip
    stored = items["stored"]
    assert stored["tokens"].dtype == torch.int8
    np.testing.assert_allclose(
        stored["mean"] + stored["scale"] * stored["tokens"].float(), items["absolute"]["tokens"],
        rtol=1e-6,
    )  # fmt: skip
    residual = (items["absolute"]["tokens"] - stored["mean"]) / stored["std"]
    np.testing.assert_allclose(items["residual"]["tokens"], residual, rtol=1e-3, atol=1e-4)


def test_labels_are_classes_or_numbers_and_runs_without_one_are_left_out(group):
    windows = fmritok.WindowDataset(group, window=WINDOW, labels=["sex", "age"])
    assert windows.classes == {"sex": ["F", "M"]}
    assert windows.left_out == {"sex": [], "age": ["demo_103_run3"]}
    assert "demo_103_run3" not in windows.runs["run_id"].tolist()
    first = windows[0]
    assert (first["sex"].dtype, first["age"].dtype) == (torch.int64, torch.float32)
    assert (int(first["sex"]), float(first["age"])) == (0, 30.5)


def test_sides_of_a_split_share_no_subject_and_are_the_whole(group):
    train, validation = (
        fmritok.WindowDataset(group, window=WINDOW, split=side) for side in ("train", "validation")
    )
    ids = [set(side.runs["subject"]) for side in (train, validation)]
    assert ids[0].isdisjoint(ids[1])
    assert ids[0] | ids[1] == set(group.runs["subject"])
    assert ids[1]
    other = fmritok.WindowDataset(group, window=WINDOW, split="validation", split_seed=7)
    assert set(other.runs["subject"]) != ids[1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": 0}, "window of the windows: expected 1 or more, got 0"),
        ({"labels": ["ages"]}, "^Label ages: expected one of .*age.*, got no such column"),
        ({"labels": ["trial_type"]}, "expected one of .*age, task, .* dataset, got no such"),
        ({"labels": ["valid"]}, "none of tokens"),
        ({"split": "test"}, "one of train, validation"),
        ({"form": "raw"}, "one of residual, absolute, stored"),
        ({"where": ["task=motor"]}, "^Option where: expected task among rest"),
        ({"window": 4.0}, "window of the windows: expected a whole number, got 4.0"),
        ({"stride": 2, "windows_per_run": 2}, "stride of the windows: expected none with"),
        ({"split": "train", "validation_fraction": 1.5}, "a share between 0 and 1, got 1.5"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(group, options, match):
    with pytest.raises(ConfigError, match=match):
        fmritok.WindowDataset(group, **({"window": WINDOW} | options))


def test_a_dataset_takes_a_group_and_a_condition_as_text(group):
    with pytest.raises(TypeError, match=r"such as store\[NAME\]"):
        fmritok.WindowDataset("tokens.zarr", window=WINDOW)
    windows = fmritok.WindowDataset(group, window=WINDOW, where="task=rest")
    assert len(windows) == len(fmritok.WindowDataset(group, window=WINDOW))


@pytest.mark.parametrize(
    ("workers", "windows_per_run"),
    [(0, None), (0, 2), (2, 2), pytest.param(2, None, marks=pytest.mark.slow)],
)
def test_a_loader_goes_on_exactly_where_its_state_was_taken(group, workers, windows_per_run):
    windows = fmritok.WindowDataset(
        group, window=WINDOW, labels="sex", windows_per_run=windows_per_run
    )

    def loader():
        return fmritok.window_loader(windows, batch_size=3, seed=4, workers=workers)

    one = loader()
    epochs = [list(one), list(one)]
    assert len(epochs[0]) == len(one)
    assert any(not torch.equal(a["tokens"], b["tokens"]) for a, b in zip(*epochs, strict=True))
    two = loader()
    for _ in islice(two, 2):
        pass
    state = json.loads(json.dumps(two.state_dict()))
    three = loader()
    three.load_state_dict(state)
    three.set_epoch(0)  # what a loop does at the start of an epoch: it stays where it was
    rest = list(three) + list(three)
    for batch, wanted in zip(rest, epochs[0][2:] + epochs[1], strict=True):
        same(batch, wanted)


def test_a_state_after_the_last_batch_is_the_next_epoch(group):
    windows = fmritok.WindowDataset(group, window=WINDOW)
    loader = fmritok.window_loader(windows, batch_size=8)
    for _ in loader:
        state = loader.state_dict()
    assert (state["epoch"], state["seen"]) == (1, 0)


def test_the_state_of_another_loader_is_refused(group):
    windows = fmritok.WindowDataset(group, window=WINDOW)
    state = fmritok.window_loader(windows, batch_size=3).state_dict()
    with pytest.raises(CheckpointError, match="batch_size = 4"):
        fmritok.window_loader(windows, batch_size=4).load_state_dict(state)


def test_processes_share_an_epoch_and_take_as_many_batches(group):
    windows = fmritok.WindowDataset(group, window=WINDOW)
    shares = [
        list(fmritok.window_loader(windows, batch_size=2, seed=1, rank=rank, world_size=3))
        for rank in range(3)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = torch.cat([batch["tokens"].sum((1, 2, 3)) for share in shares for batch in share])
    assert set(seen.tolist()) == {float(w["tokens"].sum()) for w in windows}


def test_random_windows_change_with_the_epoch_and_not_with_the_process(group):
    windows = fmritok.WindowDataset(group, window=WINDOW, windows_per_run=2, seed=3)
    first = [windows[i] for i in range(len(windows))]
    windows.set_epoch(1)
    assert any(not torch.equal(windows[i]["tokens"], first[i]["tokens"]) for i in range(8))
    windows.set_epoch(0)
    for i in range(len(windows)):
        same(windows[i], first[i])


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_own_loader_reads_the_same_windows(group, workers):
    windows = fmritok.WindowDataset(group, window=WINDOW, labels=["sex"])
    loaded = list(DataLoader(windows, batch_size=4, num_workers=workers))
    joined = {name: torch.cat([batch[name] for batch in loaded]) for name in loaded[0]}
    for i in range(len(windows)):
        same({name: value[i] for name, value in joined.items()}, windows[i])


def test_store_and_group_say_what_is_in_them(group):
    store = fmritok.open_store(group.location.url)
    assert list(store) == ["vae"]
    assert "vae" in store
    assert len(group) == 8
    assert list(group) == group.runs["run_id"].tolist()
    run_id = next(iter(group))
    np.testing.assert_array_equal(group[run_id], group.values(run_id))
    assert "TokenGroup('vae': 8 runs, 280 frames of 3 tokens of 4 features, int8)" in repr(store)
    assert "3 columns" not in repr(group)
    assert set(store.runs["group"]) == {"vae"}
    assert "8 subjects" in repr(store)
