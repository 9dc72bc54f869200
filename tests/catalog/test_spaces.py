"""Runs in another version of MNI152 than a template: said, recorded, and how far apart."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from fmritok.errors import AtlasError, FmritokError
from fmritok.pipeline.catalog.spaces import space_notes, space_sentences
from fmritok.tokenizers.flatmap.cortex import load_template
from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer
from fmritok.tokenizers.mni import apart
from fmritok.tokenizers.network.atlas import load_atlas
from fmritok.tokenizers.network.tokenizer import NetworkTokenizer
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

FSL, FMRIPREP, NIAK = "MNI152NLin6Asym", "MNI152NLin2009cAsym", "MNI152NLin2009aSym"


def test_versions_of_mni152_lie_apart_and_other_spaces_are_not_compared():
    assert apart(FSL, FMRIPREP) == apart(FMRIPREP, FSL) == (1.6, 3.0)
    assert apart("MNI305", FSL).median == 2.3
    assert apart(FSL, NIAK) == (None, None)
    for pair in ((FSL, FSL), ("MNI152", FSL), (FSL, "fsLR"), (FSL, "")):
        assert apart(*pair) is None


def test_runs_that_lie_apart_are_counted_and_named():
    runs = pd.DataFrame(
        {"space": [FSL, FMRIPREP, FMRIPREP, FMRIPREP], "problem": ["", "", "", "x"]}
    )
    notes = space_notes(runs, FSL)
    said = {"runs": 2, "median_mm": 1.6, "percentile_95_mm": 3.0}
    assert notes == {"template": FSL, "apart": {FMRIPREP: said}}
    (sentence,) = space_sentences("flatmap", notes)
    assert sentence.startswith(
        f"flatmap: runs in {FMRIPREP} (2), template in {FSL}: 1.6 mm apart (95 % below 3.0 mm)."
    )
    assert space_sentences("network", space_notes(runs, "MNI152")) == []
    assert space_notes(runs, "") == {}
    (unknown,) = space_sentences("x", space_notes(runs[:1], NIAK))
    assert "an unknown distance apart" in unknown


def test_tokenizers_state_the_space_of_their_template():
    assert FlatmapTokenizer().template_space == FSL
    assert FlatmapTokenizer(move_surfaces=False).template_space == "MNI305"
    assert NetworkTokenizer().template_space == "MNI152"
    assert VaeTokenizer().template_space == ""


def test_a_template_states_a_version_of_mni152(fslr, tmp_path):
    tree = yaml.safe_load((fslr / "template.yaml").read_text())
    assert tree["surface_space"] == "MNI152"
    for side in ("left", "right"):
        tree[side] = {kind: str(fslr / name) for kind, name in tree[side].items()}
    path = tmp_path / "template.yaml"
    path.write_text(yaml.safe_dump(tree | {"surface_space": FMRIPREP}))
    stated = load_template(str(path))
    assert stated.volumes == FMRIPREP
    assert stated.sha256 == load_template(str(fslr)).sha256, "the tokens are the same"
    path.write_text(yaml.safe_dump(tree | {"surface_space": "Talairach"}))
    with pytest.raises(FmritokError, match="surface_space: MNI152 or MNI152NLin6Asym or .*MNI305"):
        load_template(str(path))


def test_an_atlas_states_its_space_in_a_column(tmp_path):
    def atlas(name, *spaces):
        table = pd.DataFrame({"name": ["a", "b"], "network": "N", "x": 0, "y": [1, 2], "z": 3})
        if spaces:
            table["space"] = spaces
        table.to_csv(tmp_path / name, sep="\t", index=False)
        return load_atlas(str(tmp_path / name))

    stated, silent = atlas("a.tsv", FSL, FSL), atlas("b.tsv")
    assert (stated.space, silent.space) == (FSL, "")
    assert stated.sha256 == silent.sha256, "the tokens are the same"
    for wrong in ((FSL, FMRIPREP), ("Talairach", "Talairach")):
        with pytest.raises(AtlasError, match="one space for all parcels"):
            atlas("c.tsv", *wrong)
