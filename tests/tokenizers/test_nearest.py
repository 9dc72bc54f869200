"""An atlas without networks gets those of the nearest coordinates, and the distances are kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fmritok.errors import AtlasError
from fmritok.tokenizers.network.atlas import load_atlas
from fmritok.tokenizers.network.tokenizer import NetworkTokenizer


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, sep="," if path.suffix == ".csv" else "\t", index=False)
    return str(path)


@pytest.fixture
def known(tmp_path):
    return write(tmp_path / "known" / "atlas.tsv", name=["k1", "k2", "k3"],
                 network=["first", "second", "first"], x=[-40.0, 0, 40], y=[0.0] * 3,
                 z=[0.0] * 3)  # fmt: skip


def test_each_parcel_gets_the_network_of_the_nearest_coordinate(tmp_path, known):
    path = write(tmp_path / "own.csv", parcel=[7, 3, 5], x_mm=[3.0, -36, 50], y_mm=[4.0, 3, 0],
                 z_mm=[0.0] * 3)  # fmt: skip
    columns = {"name": "parcel", "x": "x_mm", "y": "y_mm", "z": "z_mm"}
    tokenizer = NetworkTokenizer(path, columns=columns, networks_from=known)
    grid = tokenizer.grid
    assert grid.layout["parcels"] == ["7", "3", "5"]
    assert grid.layout["networks"] == ["second", "first"]
    assert grid.static["network"].tolist() == [0, 1, 1]
    np.testing.assert_allclose(grid.static["network_distance"], [5, 5, 10])
    provenance = tokenizer.provenance()["networks"]
    assert provenance["distance_mm"] == [5.0, 5.0, 10.0]
    assert provenance["of_atlas"]["sha256"] == load_atlas(known).sha256
    assert tokenizer.notes()["networks_from"] == known
    assert tokenizer.atlas.row.tolist() == [0, 1, 2]


def test_distances_follow_their_parcels_when_these_are_sorted(tmp_path, known):
    path = write(tmp_path / "own.tsv", name=["a", "b", "c"], x=[-40.0, 1, 42], y=[0.0] * 3,
                 z=[0.0] * 3)  # fmt: skip
    atlas = load_atlas(path, networks_from=known)
    assert atlas.table["name"].tolist() == ["a", "c", "b"]
    assert atlas.row.tolist() == [0, 2, 1]
    np.testing.assert_allclose(atlas.nearest.distance, [0, 2, 1])


def test_an_atlas_with_networks_keeps_its_provenance(known):
    assert load_atlas(known).nearest is None
    tokenizer = NetworkTokenizer(known)
    assert "networks" not in tokenizer.provenance()
    assert "network_distance" not in tokenizer.grid.static


def test_the_built_in_atlas_gives_networks_by_itself(tmp_path):
    atlas = load_atlas(write(tmp_path / "a.tsv", name=["v"], x=[-15.0], y=[-90.0], z=[0.0]))
    assert atlas.networks == ("Visual",)


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"x": [300.0]}, {}, "within 20 mm of those of .*, got a median distance of 260 mm"),
        ({"network_label": ["x"]}, {}, "a column network, got 'network_label'"),
        ({}, {"columns": {"x": "xx"}}, "one of name, x, y, z, got 'xx'"),
        ({}, {"columns": {"nam": "name"}}, "got 'nam'. Did you mean name"),
    ],
)
def test_far_or_misnamed_parcels_are_refused(tmp_path, known, columns, options, words):
    own = {"name": ["p"], "x": [0.0], "y": [0.0], "z": [0.0]} | columns
    path = write(tmp_path / "own.tsv", **own)
    with pytest.raises(AtlasError, match=words):
        load_atlas(path, networks_from=known, **options)
