"""Fetching: pinned files only, checked by digest; the same from a folder without a network."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fmritok.cli import main
from fmritok.errors import FmritokError
from fmritok.pipeline.resources import fetching
from fmritok.tokenizers.flatmap.cortex import load_template
from fmritok.tokenizers.network.atlas import load_atlas


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
    asked = {}
    monkeypatch.setattr("nilearn.datasets.fetch_adhd", lambda **options: asked.update(options))
    result = fmritok("fetch", "cohort", "adhd200-sample", "--out", tmp_path)
    assert result.output.strip() == f"--dataset adhd200 --root {tmp_path / 'adhd'}"
    assert asked["n_subjects"] == 40
    monkeypatch.setattr("nilearn.datasets.fetch_adhd", lambda **_: 1 / 0)
    assert "one where there is" not in fmritok("fetch", "cohort", "adhd200-sample", "--out",
                                               tmp_path).output  # fmt: skip
