"""Weights of the published code, imported under our names, give its outputs."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import fmritok

from fmritok import load_encoder as fmritok_encoder
from fmritok.pipeline.resources.fetching import fetch_atlas
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.evaluation.features import load_frozen
from fmritok.trainer.pretrained.model_folder import ModelFolder
from fmritok.trainer.published.importing import import_weights
from fmritok.trainer.published.proof import largest_difference
from fmritok.trainer.published.reading import read_released
from fmritok.trainer.record.saved_group import SavedGroup


@pytest.fixture(scope="module")
def golden(data):
    return data / "parity"


@pytest.fixture(scope="module")
def published_cells(golden):
    """Flat maps with CortexMAE's published mask."""
    bits = np.load(golden / "flat/published.npz")["mask"]
    mask = np.unpackbits(bits)[: 224 * 560].reshape(14, 16, 35, 16).swapaxes(1, 2)
    cells = mask.reshape(490, 256).astype(bool)
    own = np.flatnonzero(cells.any(axis=1))
    provenance = {"tokenizer": "flatmap", "layout": {"image": [224, 560], "patch": 16}}
    contract = {"tokens_per_frame": len(own), "dim": 256, "precision": "float16",
                "provenance": provenance}  # fmt: skip
    arrays = {"pixel_mask": cells[own], "cell": np.stack(np.divmod(own, 35), 1).astype(np.int32)}
    return SavedGroup("flatmap", contract, {}, arrays)


@pytest.fixture(scope="module")
def atlas(data, tmp_path_factory):
    files = data / "atlases"
    cerebellum = files / "derived_Buckner7_LooseMask_MNI2mm91x109x91.nii.gz"
    return fetch_atlas(tmp_path_factory.mktemp("atlas"), cerebellum, files)


def tokens(method, atlas):
    return {"tablet": "vae.weights=dcae-tiny", "semantoks": f"network.atlas={atlas}"}[method]


@pytest.mark.parametrize(
    ("method", "file", "license"),
    [
        ("tablet", "", "apache-2.0"),
        ("semantoks", "encoder.safetensors", None),
        ("semantoks", "checkpoint.safetensors", None),
    ],
)
def test_imported_weights_repeat_the_published_outputs(
    method, file, license, golden, atlas, tmp_path
):
    place = golden / method
    done = fmritok("import", method, place / file, "--out", tmp_path, "--figures", place, "--set",
                   tokens(method, atlas))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "stored figures: equal within" in done.output
    assert f"licence {license or 'none stated'}" in done.output
    model, frozen = ModelFolder.read(tmp_path), load_frozen(tmp_path)
    assert model.license == license
    assert largest_difference(method, frozen.encoder, frozen.group, place) < 1e-5
    origin = model.facts["origin"]
    assert origin["difference"] < 1e-5
    assert origin["settings"] == json.loads((place / "config.json").read_text())
    assert "published code within" in (tmp_path / "README.md").read_text()
    if method == "semantoks":  # its tokenizer is in the folder, too
        courses = np.random.default_rng(0).standard_normal((120, 457))
        out = fmritok_encoder(tmp_path).embed(courses, tr=2.0)
        assert out.tokens.shape == (2, 5, 9, 32)
        assert np.isfinite(out.pooled).all()


def test_weights_of_cortexmae_repeat_its_outputs(golden, published_cells, tmp_path, caplog):
    place = golden / "cortexmae"
    model = import_weights("cortexmae", place, tmp_path, published_cells, figures=place)
    assert model.license == "cc-by-nc-4.0"
    assert "no commercial use" in caplog.text
    frozen = load_frozen(tmp_path)
    assert largest_difference("cortexmae", frozen.encoder, frozen.group, place) < 1e-5
    assert (frozen.window, frozen.source["step"]) == (16, None)


def test_a_checkpoint_of_torch_gives_the_same_weights(golden, published_cells, tmp_path):
    place = golden / "cortexmae"
    whole = {
        "model": load_file(place / "model.safetensors"),
        "args": json.loads((place / "config.json").read_text()),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
    }
    torch.save(whole, tmp_path / "checkpoint-last.pth")
    one = import_weights("cortexmae", place, tmp_path / "a", published_cells)
    other = import_weights(
        "cortexmae", tmp_path / "checkpoint-last.pth", tmp_path / "b", published_cells
    )
    assert one.sha256() == other.sha256()
    assert other.facts["origin"]["settings"] == whole["args"]


class Trap:
    """What runs a command where it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (open, (str(self.place), "w"))


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path):
    trap = {"model": Trap(tmp_path / "sprung")}
    torch.save(trap, tmp_path / "a.pth")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(trap, protocol=2))
    for name in ("a.pth", "b.pt"):
        with pytest.raises(CheckpointError, match=f"{name}: .*weights-only loader refuses"):
            read_released(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text"])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_broken_file_is_one_error(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"Weights .*{name}: expected tensors in safetensors"):
        read_released(tmp_path / name)


def test_what_is_not_a_tensor_or_not_a_number_is_named(tmp_path):
    torch.save({"model": {"a": torch.ones(2), "b": 3}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a tensor for b, got int"):
        read_released(tmp_path / "a.pth")
    save_file({"a": torch.tensor([1.0, torch.nan])}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="finite numbers in a, got NaN"):
        read_released(tmp_path / "a.safetensors")


def test_a_folder_with_several_files_or_none_names_them(tmp_path):
    with pytest.raises(CheckpointError, match="got none"):
        read_released(tmp_path)
    for name in ("one.pth", "two.pth"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"got one\.pth, two\.pth"):
        read_released(tmp_path)


def changed(golden, folder, change, **settings):
    """Copy the weights of CortexMAE, changed."""
    folder.mkdir()
    weights = load_file(golden / "cortexmae/model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    tree = json.loads((golden / "cortexmae/config.json").read_text())
    tree["model_kwargs"] |= settings
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (lambda w: w.pop("encoder.norm.bias"), {}, r"encoder\.norm\.bias: expected"),
        (lambda w: w.update(extra=torch.ones(1)), {}, "extra: expected a known name"),
        (lambda w: w.update({"encoder.norm.bias": torch.ones(9)}), {},
         r"final_norm\.bias of shape \(64,\), got \(9,\)"),
        (lambda w: None, {"depth": 3}, r"blocks\.2\.\S+ of shape .* got none"),
        (lambda w: None, {"depth": 1}, r"blocks\.1\.\S+ of shape none, got"),
        (lambda w: None, {"pos_embed": "sincos"}, "pos_embed: expected 'sep'"),
    ],
)  # fmt: skip
def test_the_first_wrong_tensor_or_setting_is_named(
    change, settings, said, golden, published_cells, tmp_path
):
    place = changed(golden, tmp_path / "theirs", change, **settings)
    with pytest.raises(CheckpointError, match=said):
        import_weights("cortexmae", place, tmp_path / "out", published_cells)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_repeat_the_figures_are_refused(golden, published_cells, tmp_path):
    place = changed(golden, tmp_path / "theirs", lambda w: w["encoder.cls_token"][..., 0].add_(1))
    with pytest.raises(CheckpointError, match="Output embed_cls .*a difference of at most 1e-05"):
        import_weights("cortexmae", place, tmp_path / "out", published_cells,
                       figures=golden / "cortexmae")  # fmt: skip
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="Stored figures .*FileNotFoundError"):
        import_weights("cortexmae", golden / "cortexmae", tmp_path / "out", published_cells,
                       figures=tmp_path)  # fmt: skip


def test_settings_that_are_missing_are_named(golden, published_cells, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes((golden / "cortexmae/model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="--settings FILE|Setting of CortexMAE"):
        import_weights("cortexmae", file, tmp_path / "out", published_cells)
    settings = golden / "cortexmae/config.json"
    import_weights("cortexmae", file, tmp_path / "out", published_cells, settings=settings)


@pytest.mark.parametrize(
    ("card", "given", "license", "said"),
    [
        (None, None, "cc-by-nc-4.0", "no commercial use"),
        (None, "mit", "mit", "The result says mit, as you gave it"),
        ("---\nlicense: cc-by-nc-sa-4.0\n---\nText", None, "cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0"),
    ],
)
def test_the_licence_goes_into_the_result(
    card, given, license, said, golden, published_cells, tmp_path, caplog
):
    place = changed(golden, tmp_path / "theirs", lambda w: None)
    if card:
        (place / "README.md").write_text(card)
    caplog.set_level(logging.WARNING)
    model = import_weights("cortexmae", place, tmp_path / "m", published_cells, license=given)
    assert model.license == license
    assert said in caplog.text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "--set: expected network.atlas=PATH, got none"),
        (["--set", "flatmap.template=x"], "as semantoks reads tokens of network"),
        (["--set", "network.atlas=nowhere"], "nowhere"),
    ],
)
def test_the_command_says_which_tokens_it_needs(more, said, golden, tmp_path):
    done = fmritok("import", "semantoks", golden / "semantoks/encoder.safetensors", "--out",
                   tmp_path / "m", *more)  # fmt: skip
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "m").exists()
