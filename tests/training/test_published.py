"""The published recipes train on tokens of their kind; a training is read back and embeds."""

from __future__ import annotations

import numpy as np
import pytest
from stores import write_store
from trainers import trainer_on_cpu

from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.evaluation.features import load_frozen
from fmritok.trainer.recipe import build_config, override, read_recipe
from fmritok.trainer.record.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("one_thread")

#: Sizes of a model that trains in a second; the rest is the recipe's.
SIZES = [
    "data.windows_per_run=4", "data.batch_size=4", "data.validation_fraction=0.3",
    "model.width=16", "model.layers=2", "model.heads=2", "model.kv_heads=2", "model.mlp_width=32",
    "train.validate_every=8", "train.checkpoint_every=8", "train.epochs=null", "train.steps=8",
]  # fmt: skip
SMALL = [
    "data.windows_per_run=4", "data.batch_size=4", "data.validation_fraction=0.3",
    "model.width=16", "model.layers=2", "model.heads=2", "model.kv_heads=2", "model.mlp_width=32",
    "objective.decoder_width=16", "objective.decoder_layers=1", "objective.decoder_heads=2",
    "objective.mask_ratio=0.7", "optim.lr=0.01",
    "train.steps=8", "train.validate_every=8", "train.checkpoint_every=8",
]  # fmt: skip


@pytest.fixture
def flat(tmp_path):
    """Tokens of a flat map: 12 of 20 cells have cortex, and share a slow wave."""
    mask = np.arange(12 * 16).reshape(12, 16) % 7 > 0
    rng = np.random.default_rng(0)
    loads = rng.standard_normal((12, 16)) * mask

    def values(_, n):
        wave = np.sin(rng.uniform(0, 6) + np.arange(n) / 3)
        return (wave[:, None, None] * loads).astype(np.float32)

    location = Location(tmp_path / "flat.zarr")
    write_store(
        location, [40, 33, 50, 20], n_tokens=12, dim=16, precision="float16", values=values,
        static={"pixel_mask": mask, "cell": np.argwhere(np.ones((3, 4)))},
        provenance={"tokenizer": "flatmap", "layout": {"image": [20, 16], "patch": 4}},
    )  # fmt: skip
    return TokenStore(location.url).group()


def test_cortexmae_published_trains_on_a_flat_map(flat, tmp_path):
    """The head starts at 0, so the first loss is that of the mean token; then weights change."""
    config = build_config(override(read_recipe("cortexmae-published"), SMALL))
    trainer = trainer_on_cpu(config, flat, tmp_path / "out")
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    figures = trainer.run().figures
    rows = [row for row in read_metrics(tmp_path / "out") if row["kind"] == "train"]
    assert len(rows) == 8
    assert all(0 < row["loss"] < 2 for row in rows)
    assert figures["loss"] != figures["loss_mean_token"]
    unchanged = {name for name, x in trainer.model.state_dict().items() if x.equal(before[name])}
    assert unchanged <= {"encoder.blocks.1.attention.key_value.bias"}
    frozen = load_frozen(tmp_path / "out", flat)
    assert frozen.encoder.temporal.equal(trainer.model.encoder.temporal)


def test_tablet_published_trains_on_absolute_tokens(make_store, tmp_path):
    """The head starts at 0, and tokens lie around 3: the first losses are about 3."""
    location, _ = make_store([40, 33, 50, 20], n_tokens=6, dim=5)
    group = TokenStore(location.url).group()
    options = [*SIZES, "data.window=16", "optim.lr=0.01"]
    config = build_config(override(read_recipe("tablet-published"), options))
    trainer = trainer_on_cpu(config, group, tmp_path / "out")
    names = set(trainer.model.state_dict())
    assert not {name for name in names if "spatial" in name or "static" in name}
    trainer.run()
    losses = [row["loss"] for row in read_metrics(tmp_path / "out") if row["kind"] == "train"]
    assert len(losses) == 8
    assert losses[0] == pytest.approx(3, abs=0.3)
    assert losses[-1] < losses[0]
    assert load_frozen(tmp_path / "out", group).encoder.config.position == "none"


def test_semantoks_published_trains_on_parcels(tmp_path):
    """Weights that the loss reaches change, the fixed positions do not."""
    location = Location(tmp_path / "parcels.zarr")
    rng = np.random.default_rng(0)
    write_store(
        location, [180, 150, 200, 120], n_tokens=7, dim=1, precision="float16",
        values=lambda _, n: rng.standard_normal((n, 7, 1)).astype(np.float32),
        static={"network": np.array([0, 0, 0, 1, 1, 2, 2], np.int32)},
        provenance={"tokenizer": "network"},
    )  # fmt: skip
    group = TokenStore(location.url).group()
    options = [
        *SIZES, "objective.head_width=16", "objective.projection=8",
        "objective.slice_probability=1",
    ]  # fmt: skip
    config = build_config(override(read_recipe("semantoks-published"), options))
    trainer = trainer_on_cpu(config, group, tmp_path / "out")
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    fixed = trainer.model.encoder.temporal.clone()
    trainer.run()
    rows = [row for row in read_metrics(tmp_path / "out") if row["kind"] == "train"]
    assert len(rows) == 8
    assert rows[0]["lr"] == 1.4e-3, "3 % of 8 steps is no warm-up"
    after = trainer.model.state_dict()
    unchanged = {name for name, x in after.items() if x.equal(before[name])}
    assert {name.rpartition(".")[2] for name in unchanged} == {"start_norm"}
    assert trainer.model.encoder.temporal.equal(fixed)
    assert load_frozen(tmp_path / "out", group).encoder.temporal.equal(fixed)
