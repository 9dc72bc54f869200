"""Integrated gradients add up, are zero where nothing is, and find the parcel that matters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from stores import write_two_groups
from tiny import fmritok

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.recipe import build_config, override, read_recipe

pytest.importorskip("captum")

from fmritok.report.saliency import draw_saliency
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.finetuning.config import finetune_config
from fmritok.trainer.finetuning.kept import KeptClassifier
from fmritok.trainer.finetuning.model import Classifier
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.saliency.attribution import Saliency, attribute, saliency_table
from fmritok.trainer.saliency.finetuned import FinetunedReadout
from fmritok.trainer.saliency.readout import Head, Readout, batches_of

WINDOW = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_two_groups(tmp_path_factory.mktemp("store") / "tokens.zarr", n_subjects=8)


def a_readout(group, head: bool = True) -> Readout:
    config = build_config(override(read_recipe("tiny"), ["model.width=16", "model.heads=2"]))
    torch.manual_seed(0)
    layout = TokenLayout.of(group, patch=10, window=WINDOW)
    encoder = TokenTransformer(config.model, layout).eval()
    weight = np.random.default_rng(0).standard_normal(32)
    return Readout(encoder, Head("x", weight) if head else None)


@pytest.mark.parametrize("name", ["network", "cells"])
@pytest.mark.parametrize("head", [True, False])
def test_attributions_add_up_to_the_change_of_the_number(store, name, head):
    group = TokenStore(store).group(name)
    readout = a_readout(group, head)
    batches, n = batches_of(group, list(group)[:3], window=WINDOW, crops=1)
    found = attribute(readout, batches, n, device=torch.device("cpu"), steps=48)
    assert found.windows == 3
    assert found.gap < 0.05
    assert found.signed.shape == (group.n_tokens, 1)
    assert (found.strength >= np.abs(found.signed) - 1e-9).all()
    table = saliency_table(group, found)
    assert table["signed"].to_numpy() == pytest.approx(found.signed[:, 0])
    if name == "network":
        assert table["parcel"].tolist() == [f"p{i}" for i in range(8)]
        assert table["network"].tolist()[2:4] == ["<b>Somato</b>"] * 2


def test_a_number_of_one_parcel_is_attributed_to_it(store):
    group = TokenStore(store).group("network")
    readout = a_readout(group)
    grid = readout.encoder.grid
    cell, place = (int(x[0]) for x in np.nonzero(grid.members.numpy() == 5))

    class OneParcel(Readout):
        def forward(self, x_BUCF, static_BSD, times_BU, valid_BU):
            a_BUPE = torch.unflatten(x_BUCF[:, :, cell], 2, (grid.layout.patch, -1))
            return a_BUPE[..., place].square().sum((1, 2))

    batches, n = batches_of(group, list(group)[:2], window=WINDOW, crops=1)
    found = attribute(OneParcel(readout.encoder), batches, n, device=torch.device("cpu"))
    assert found.strength.argmax() == 5
    assert np.delete(found.strength[:, 0], 5).max() == 0


def a_classifier(group, classes: tuple[str, ...]) -> KeptClassifier:
    encoder = a_readout(group).encoder
    config = finetune_config("default", ["head.hidden=8", "head.pool=cells"])
    model = Classifier(encoder, config, len(classes) or 1).eval()
    for weights in model.head.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    return KeptClassifier(model, WINDOW, "x", classes, 40.0, 10.0)


def test_the_number_of_a_classifier_is_what_it_predicts(store):
    group = TokenStore(store).group("network")
    for classes in ((), ("a", "b"), ("a", "b", "c")):
        kept = a_classifier(group, classes)
        batches, _ = batches_of(group, list(group)[:3], window=WINDOW, crops=1)
        batch = next(iter(batches))
        inputs = kept.model.encoder.inputs(batch)
        more = (inputs.patches, inputs.static, inputs.times, inputs.valid)
        outputs = kept.model.outputs(batch)
        if not classes:
            torch.testing.assert_close(FinetunedReadout(kept)(*more), 40 + 10 * outputs[:, 0])
            with pytest.raises(ConfigError, match="x is a number, got a"):
                FinetunedReadout(kept, "a")
            continue
        for number, name in enumerate(classes):
            p = outputs.double().softmax(1)[:, number]
            found = FinetunedReadout(kept, name)(*more)
            torch.testing.assert_close(found, torch.logit(p).float(), atol=1e-4, rtol=1e-4)
        assert FinetunedReadout(kept).name == f"log odds of x: {classes[-1]}"
        with pytest.raises(ConfigError, match=r"one of a, b.*got z"):
            FinetunedReadout(kept, "z")


def test_attributions_of_a_classifier_add_up(store):
    group = TokenStore(store).group("network")
    readout = FinetunedReadout(a_classifier(group, ("a", "b")))
    batches, n = batches_of(group, list(group)[:3], window=WINDOW, crops=1)
    found = attribute(readout, batches, n, device=torch.device("cpu"), steps=64)
    assert found.gap < 0.05
    assert found.strength.max() > 0


def test_tokens_without_places_are_bars():
    from types import SimpleNamespace

    values = np.array([[1.0], [-5.0], [2.0]])
    figure = draw_saliency(SimpleNamespace(static={}), Saliency(values, abs(values), 1, 0.0), "t")
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[-5, 2, 1], [5, 2, 1]]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "0"]


def test_the_command_writes_a_picture_and_a_table(store, tmp_path):
    trained = fmritok("train", "--store", store, "--group", "network", "--steps", "2", "--recipe",
                      "tiny", "--out", tmp_path / "training", "--device", "cpu",
                      "--set", "data.window=32", "--loader-workers", "0")  # fmt: skip
    assert trained.exit_code == 0, trained.output
    (tmp_path / "task.yaml").write_text(
        "{name: t, target: sex, kind: binary, unit: subject, metric: auroc}"
    )
    common = ("saliency", "--from", tmp_path / "training", "--store", store, "--runs", "2",
              "--crops", "1", "--steps", "4", "--device", "cpu")  # fmt: skip
    for number, more in enumerate([(), ("--task", tmp_path / "task.yaml")]):
        out = tmp_path / str(number)
        done = fmritok(*common, "--out", out, *more)
        assert done.exit_code == 0, done.output
        assert len(pd.read_csv(out / "saliency.csv")) == 8
        assert (out / "saliency.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "finetune.yaml").write_text("train: {epochs: 1}")
    tuned = fmritok("finetune", "--from", tmp_path / "training", "--store", store, "--task",
                    tmp_path / "task.yaml", "--folds", "2", "--seeds", "1", "--no-twin", "--recipe",
                    tmp_path / "finetune.yaml", "--keep-weights", "--device", "cpu", "--out",
                    tmp_path / "finetune")  # fmt: skip
    assert tuned.exit_code == 0, tuned.output
    file = tmp_path / "finetune" / "weights" / "finetune-seed0-fold0.safetensors"
    done = fmritok(*common, "--from", file, "--class", "F", "--out", tmp_path / "tuned")
    assert done.exit_code == 0, done.output
    assert "Saliency of the log odds of sex: F, finetune-seed0-fold0" in " ".join(
        done.output.split()
    )
    file.write_bytes(b"x" * 20)
    damaged = fmritok(*common, "--from", file, "--out", tmp_path / "tuned")
    assert damaged.exit_code == 1
    assert "a file of `fmritok finetune --keep-weights`" in " ".join(damaged.output.split())
    wrong = fmritok(*common, "--task", tmp_path / "task.yaml", "--class", "X", "--out", tmp_path)
    assert wrong.exit_code == 2
    assert "one of F, M" in wrong.output
