"""Fetching: pinned files only, checked by digest; the same from a folder without a network."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fmritok.cli import main
from fmritok.errors import FmritokError
from fmritok.pipeline.resources import fetching
from fmritok.progress import Progress
from fmritok.tokenizers.flatmap.cortex import load_template
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

    monkeypatch.setattr(fetching, "urlopen", no_network)
    with pytest.raises(FmritokError, match="where there is a network, or give a folder"):
        fetching.fetch_template(tmp_path)


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
