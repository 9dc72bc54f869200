"""A small cohort on disk with its store and a training, and a hub without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import RepoUrl, constants, hub_mixin
from tiny import fmritok, tokenize_options, write_atlas, write_cohort

COMMIT = "a" * 40


@pytest.fixture(scope="session")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``cohort``, ``atlas``, ``tokens.zarr``, ``training``, and ``recipe.yaml``."""
    folder = tmp_path_factory.mktemp("scanned")
    atlas = write_atlas(folder / "atlas")
    root = write_cohort(folder / "cohort", [f"10000{i}" for i in range(10)], frames=20)
    done = fmritok(*tokenize_options(root, folder / "tokens.zarr", atlas))
    assert done.exit_code == 0, done.output
    (folder / "recipe.yaml").write_text(
        "{model: {width: 16, layers: 1, mlp_width: 16, patch: 2}, train: {steps: 1},"
        " data: {window: 8, batch_size: 2, validation_fraction: 0.4}}"
    )
    done = fmritok("train", "--store", folder / "tokens.zarr", "--out", folder / "training",
                   "--recipe", folder / "recipe.yaml", "--loader-workers", 0)  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make folders of repositories in a cache of the hub; what is pushed goes there, too."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def make(name: str) -> Path:
        place = cache / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT
        place.mkdir(parents=True)
        (place.parents[1] / "refs").mkdir()
        (place.parents[1] / "refs" / "main").write_text(COMMIT)
        return place

    class Hub:
        """What the mixin uses of the hub's client."""

        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: object) -> RepoUrl:
            return RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, folder_path: Path, repo_id: str, **_: object) -> str:
            shutil.copytree(folder_path, make(repo_id), dirs_exist_ok=True)
            return f"https://huggingface.co/{repo_id}/commit/{COMMIT}"

    monkeypatch.setattr(hub_mixin, "HfApi", Hub)
    return make
