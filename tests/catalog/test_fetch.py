"""Fetching: pinned files only, checked by digest; the same from a folder without a network."""

from __future__ import annotations

import json
from hashlib import sha256

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from fmritok.cli import main
from fmritok.errors import FmritokError
from fmritok.pipeline.resources import pinned, templates
from fmritok.progress import Progress
from fmritok.tokenizers.flatmap.cortex import load_template
from fmritok.tokenizers.flatmap.geometry import PUBLISHED
from fmritok.tokenizers.flatmap.pixels import build_flat_grid
from fmritok.tokenizers.network.atlas import load_atlas
from fmritok.tokenizers.vae.weights import fetch_weights

HUB_BAR = "huggingface_hub.snapshot_download"


def fmritok(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_fs_lr_template_is_put_together(data, fslr, tmp_path):
    result = fmritok("fetch", "template", "--out", tmp_path / "t", "--from", data / "surfaces")
    assert result.exit_code == 0, result.output
    reference = result.output.strip().removeprefix("--set flatmap.template=")
    assert load_template(reference).sha256 == load_template(str(fslr)).sha256


@pytest.fixture(scope="module")
def pycortex(data, tmp_path_factory):
    """Write a stand-in for its surface: HCP's flat maps in its scale and file names."""
    folder = tmp_path_factory.mktemp("pycortex") / "32k_fs_LR"
    (folder / "surfaces").mkdir(parents=True)
    settings = json.loads((data / "parity/flat/colin.json").read_text())
    inputs = np.load(data / "parity/flat/colin_inputs.npz")
    for side, name in (("left", "lh"), ("right", "rh")):
        path = data / f"surfaces/colin.cerebral.{side[0].upper()}.flat.32k_fs_LR.surf.gii"
        points, faces = nib.load(path).agg_data(("pointset", "triangle"))
        points = points * np.float32(settings["point_scale"])
        if side == "right":
            points[:, 1] += settings["right_hemisphere_up_mm"]
        faces = np.delete(faces, inputs[f"left_out_{side}"], axis=0)
        arrays = [
            nib.gifti.GiftiDataArray(points, "NIFTI_INTENT_POINTSET"),
            nib.gifti.GiftiDataArray(faces, "NIFTI_INTENT_TRIANGLE"),
        ]
        nib.save(nib.gifti.GiftiImage(darrays=arrays), folder / "surfaces" / f"flat_{name}.gii")
    return folder


def published(data, pycortex, out, *, cortex="Schaefer2018_400Parcels_7Networks_order_Tian_"
              "Subcortex_S3.dlabel.nii"):  # fmt: skip
    return fmritok("fetch", "template", "--out", out, "--from", data / "surfaces",
                   "--surface", pycortex, "--cortex", data / "atlases" / cortex)  # fmt: skip


def test_the_published_template_has_the_pixels_of_its_own_code(
    data, pycortex, tmp_path, monkeypatch
):
    mask = np.load(data / "parity/flat/colin_outputs.npz")["mask"]
    monkeypatch.setattr(templates, "_PUBLISHED_MASK", sha256(mask.tobytes()).hexdigest())
    result = published(data, pycortex / "surfaces", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"--set flatmap.template={tmp_path / 'template.yaml'}" in result.output
    template = load_template(str(tmp_path))
    assert template.geometry == PUBLISHED
    assert len(build_flat_grid(template).pixel) == 65_799


def test_another_surface_than_the_published_one_is_refused(data, pycortex, tmp_path):
    result = published(data, pycortex, tmp_path)
    assert result.exit_code == 1
    assert "expected the 77,763 pixels in 364 cells of CortexMAE, got 65799 pixels" in result.output


def test_without_its_surface_or_labels_the_error_says_what_to_get(data, pycortex, tmp_path):
    result = published(data, tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert "expected flat_lh.gii" in result.output
    assert "32k_fs_LR.tar.gz" in result.output
    result = published(data, pycortex, tmp_path / "out", cortex="Tian_Subcortex_S3_3T.nii.gz")
    assert result.exit_code == 1
    assert "Schaefer's 1,000 parcels" in result.output
    result = fmritok("fetch", "template", "--out", tmp_path, "--surface", pycortex)
    assert result.exit_code == 2


def test_the_published_atlas_is_put_together(data, tmp_path):
    cerebellum = data / "atlases" / "derived_Buckner7_LooseMask_MNI2mm91x109x91.nii.gz"
    result = fmritok("fetch", "atlas", "--out", tmp_path / "a", "--from", data / "atlases",
                     "--cerebellum", cerebellum)  # fmt: skip
    assert result.exit_code == 0, result.output
    reference = result.output.strip().removeprefix("--set network.atlas=")
    assert len(load_atlas(reference)) == 457


def test_another_file_under_the_same_name_is_refused(data, tmp_path):
    fake = tmp_path / "fake"
    fake.mkdir()
    for path in (data / "surfaces").glob("*.gii"):
        (fake / path.name).write_bytes(b"<GIFTI/>")
    result = fmritok("fetch", "template", "--out", tmp_path / "t", "--from", fake)
    assert result.exit_code == 1
    assert "expected sha256" in result.output
    assert list((tmp_path / "t").iterdir()) == []


def test_without_a_network_it_is_one_sentence(tmp_path, monkeypatch):
    def no_network(url, timeout):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(pinned, "urlopen", no_network)
    with pytest.raises(FmritokError, match="where there is a network, or give a folder"):
        templates.fetch_template(tmp_path)


def test_the_sample_of_adhd200_is_nilearn_s(tmp_path, monkeypatch):
    """The download itself is nilearn's; what is asked of it, and where it lands, is ours."""
    asked, told = [], []
    monkeypatch.setattr("nilearn.datasets.fetch_adhd", lambda **options: asked.append(options))
    monkeypatch.setattr(Progress, "__call__", lambda self, *how: told.append(how))
    result = fmritok("fetch", "cohort", "adhd200-sample", "--out", tmp_path)
    assert result.output.strip() == f"--dataset adhd200 --root {tmp_path / 'adhd'}"
    assert asked[-1] == {"n_subjects": 40, "data_dir": tmp_path, "verbose": 0}
    assert told == [(done, 40, "subjects") for done in range(41)]
    monkeypatch.setattr("nilearn.datasets.fetch_adhd", lambda **_: 1 / 0)
    failed = fmritok("fetch", "cohort", "adhd200-sample", "--out", tmp_path)
    assert failed.exit_code == 1
    assert "Run this where there is a network" in failed.output


def test_a_download_from_the_hub_tells_its_bytes_and_draws_no_bar_of_its_own(
    tmp_path, monkeypatch, capfd
):
    """The hub's client makes one bar for files and two for bytes; it gets them from us."""
    told = []

    def download(hub_id, *, tqdm_class, **_):
        files = tqdm_class(total=2, desc="Fetching 2 files")
        network, disk = (
            tqdm_class(total=0, unit="B", name=name, disable=None)
            for name in (f"{HUB_BAR}.transfer", HUB_BAR)
        )
        for size in (3e6, 9e6):
            disk.total += size
            disk.refresh()
        for bar, size in ((network, 4e6), (disk, 6e6), (files, 1)):
            bar.update(size)
            bar.refresh()
            bar.close()
        return str(tmp_path / "commit")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr(Progress, "__call__", lambda self, *how: told.append(how))
    with Progress("fetch"):
        assert fetch_weights("lab/autoencoder").revision == "commit"
    assert list(dict.fromkeys(told)) == [
        (0, 0, "MB"), (0, 3, "MB"), (0, 12, "MB"), (6, 12, "MB")
    ]  # fmt: skip
    assert capfd.readouterr() == ("", "")
