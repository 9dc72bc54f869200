"""Every command and the Python of docs/weights.md work as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from autoencoders import save_random_autoencoder
from safetensors.torch import load_file
from tiny import fmritok

from fmritok.pipeline.resources.fetching import fetch_atlas
from fmritok.trainer.pretrained.model_folder import ModelFolder

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text()


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    return [shlex.split(line)[1:] for block in blocks for line in block.strip().splitlines()]


@pytest.fixture
def place(scanned, snapshot, tmp_path, monkeypatch, data, fslr):
    """Make what the page names: a store, a training, and released weights."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(next((scanned / "cohort").rglob("*.dtseries.nii")), "sub-01.dtseries.nii")
    for folder in ("trainings", "templates", "downloads/semantoks", "downloads/tablet"):
        Path(folder).mkdir(parents=True)
    Path("tokens.zarr").symlink_to(scanned / "tokens.zarr")
    Path("trainings/first").symlink_to(scanned / "training")
    Path("templates/cortexmae").symlink_to(fslr)
    golden, files = data / "parity", data / "atlases"
    for file in ("tablet/config.json", "tablet/model.safetensors", "semantoks/config.json",
                 "semantoks/encoder.safetensors"):  # fmt: skip
        shutil.copyfile(golden / file, f"downloads/{file}")
    whole = {"model": load_file(golden / "cortexmae/model.safetensors"),
             "args": json.loads((golden / "cortexmae/config.json").read_text())}  # fmt: skip
    torch.save(whole, "downloads/checkpoint-last.pth")
    cerebellum = files / "derived_Buckner7_LooseMask_MNI2mm91x109x91.nii.gz"
    fetch_atlas(tmp_path / "atlas", cerebellum, files)
    save_random_autoencoder(snapshot("mit-han-lab/dc-ae-f32c32-in-1.0-diffusers"))
    return scanned


@pytest.mark.slow
def test_the_page_works(place):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    atlas = str(place / "atlas")  # only its name was pushed
    exec(code.replace('revision="main"', f"revision='main', options={{'atlas': {atlas!r}}}"), {})
    assert ModelFolder.read(Path("models/copy")).license == "cc-by-4.0"
    short = {
        "train": ["--recipe", str(place / "recipe.yaml"), "--loader-workers", "0"],
        "probe": ["--seeds", "1", "--folds", "2", "--permutations", "2", "--device", "cpu"],
        "finetune": ["--seeds", "1", "--folds", "2", "--device", "cpu", "--no-twin",
                     "--where", "task=motor", "--set", "train.epochs=1"],
    }  # fmt: skip
    for line in commands():
        done = fmritok(*line, *short.get(line[0], []))
        assert done.exit_code == 0, f"{line}\n{done.output}"
    methods = [line[1] for line in commands() if line[0] == "import"]
    assert methods == ["tablet", "cortexmae", "semantoks"]
    assert [ModelFolder.read(Path("models", name)).group_name for name in methods] == [
        "vae", "flatmap", "network",
    ]  # fmt: skip
