"""fmritok's encoders run in Brainmarks: its smoke test and its commands, on simulated runs.

Brainmarks needs an older setuptools than the one that builds our wheel. ``make test-brainmarks``
installs it into an environment of its own; without it, these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from nibabel import cifti2
from tiny import fmritok

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("brainmarks.main_probe") is None,
        reason="Brainmarks is not installed: make test-brainmarks",
    ),
]

NETWORKS = {"Vis": 61, "SomMot": 77, "DorsAttn": 46, "SalVentAttn": 47, "Limbic": 26, "Cont": 52,
            "Default": 91, "Subcortex": 50, "Cerebellum": 7}  # fmt: skip
#: Brain voxels of the 2 mm mask of TemplateFlow.
BRAIN_VOXELS = 228_483
SMALL = {"model.width": 64, "model.layers": 1, "model.mlp_width": 32, "model.heads": 1,
         "data.window": 20, "data.batch_size": 2, "model.patch": 4}  # fmt: skip

#: A data set in Brainmarks' format: noise with a dip in the middle of the run, or with a bump.
DATASET = """
import numpy as np
from brainmarks.datasets.base import HFDataset
from brainmarks.datasets.registry import register_dataset
from datasets import Dataset

@register_dataset
def simulated(space):
    rng = np.random.default_rng(0)

    def split(n):
        rows = {"bold": [], "mean": [], "std": [], "tr": [2.0] * n}
        rows["bump"] = [i % 2 for i in range(n)]
        for bump in rows["bump"]:
            middle = np.sin(np.linspace(0, np.pi, 60))[:, None]
            x = rng.standard_normal((60, 457)) + (2 * middle if bump else -2 * middle)
            rows["bold"].append(((x - x.mean(0)) / x.std(0)).astype(np.float32))
            rows["mean"].append(np.full((1, 457), 100, np.float32))
            rows["std"].append(np.full((1, 457), 5, np.float32))
        return HFDataset(Dataset.from_dict(rows), target_key="bump")

    return {"train": split(40), "validation": split(20), "test": split(20)}
"""


@pytest.fixture(scope="module")
def parcels(tmp_path_factory):
    """Train on time courses of the 457 parcels, in a table sorted by network."""
    folder = tmp_path_factory.mktemp("parcels")
    rows, label = [], {"cortex": 0, "Subcortex": 0, "Cerebellum": 0}
    for network, count in NETWORKS.items():
        part = network if network in label else "cortex"
        for _ in range(count):
            label[part] += 1
            rows.append({"name": f"{network}_{label[part]}", "network": network,
                         "label": label[part], "x": 0.0, "y": 0.0, "z": 0.0})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "atlas.tsv", sep="\t", index=False)
    rng = np.random.default_rng(0)
    for subject in "abcd":
        np.save(folder / f"{subject}.npy", rng.standard_normal((60, 457)).astype(np.float32))
    (folder / "parcels.yaml").write_text(yaml.safe_dump(
        {"pattern": "{subject}.npy", "task": "rest", "tr": 2.0, "atlas": "atlas.tsv"}
    ))  # fmt: skip
    return train(
        folder, "--dataset", "parcels", "--root", folder, "--tokenizer", "network",
        "--set", "network.band=null", "--set", "network.tr=null",
    )  # fmt: skip


@pytest.fixture(scope="module")
def cortex(tmp_path_factory, data, fslr):
    """Train on flat maps of grayordinates; return the training and a file of grayordinates."""
    folder = tmp_path_factory.mktemp("cortex")
    grayordinates = data / "cifti" / "91282_Greyordinates.dscalar.nii"
    axis = nib.load(grayordinates).header.get_axis(1)
    rng = np.random.default_rng(0)
    for subject in ("100001", "100002", "100003"):
        name = "rfMRI_REST1_LR"
        path = folder / "cohort" / subject / "MNINonLinear/Results" / name
        path.mkdir(parents=True)
        values = (1000 + rng.standard_normal((20, len(axis)))).astype(np.float32)
        axes = (cifti2.SeriesAxis(0, 0.72, len(values)), axis)
        nib.save(cifti2.Cifti2Image(values, axes), path / f"{name}_Atlas.dtseries.nii")
    training = train(
        folder, "--dataset", "hcp", "--root", folder / "cohort", "--input", "surface",
        "--tokenizer", "flatmap", "--set", f"flatmap.template={fslr}",
    )  # fmt: skip
    return training, grayordinates


def train(folder: Path, *cohort: object) -> Path:
    """Tokenize a cohort and train for two steps."""
    store = folder / "tokens.zarr"
    done = fmritok("tokenize", *cohort, "--store", store, "--executor", "serial")
    assert done.exit_code == 0, done.output
    sets = [x for name, value in SMALL.items() for x in ("--set", f"{name}={value}")]
    done = fmritok("train", "--store", store, "--out", folder / "training", "--steps", "2",
                   "--loader-workers", "0", *sets)  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "training"


@pytest.fixture(scope="module")
def exported(parcels):
    """Export the encoder of the training on parcels."""
    folder = parcels.parent / "exported"
    done = fmritok("export", parcels, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def brainmarks(tmp_path):
    """Run a module of Brainmarks without a network, beside the simulated data set."""
    (tmp_path / "plugins/brainmarks/datasets").mkdir(parents=True)
    (tmp_path / "plugins/brainmarks/datasets/simulated.py").write_text(DATASET)
    write_brain_mask(tmp_path / "templateflow")
    more = {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "WANDB_MODE": "disabled",
            "PYTHONPATH": str(tmp_path / "plugins"), "PYTHONSAFEPATH": "1",
            "TEMPLATEFLOW_HOME": str(tmp_path / "templateflow"),
            "TEMPLATEFLOW_AUTOUPDATE": "0"}  # fmt: skip

    def run(training: Path, module: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", f"brainmarks.{module}", *map(str, arguments)], cwd=tmp_path,
            env=os.environ | more | {"FMRITOK_TRAINING": str(training)}, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    run.folder = tmp_path
    return run


def write_brain_mask(home: Path) -> None:
    """Stand in for the mask that TemplateFlow would download: a ball of as many voxels."""
    folder = home / "tpl-MNI152NLin6Asym"
    folder.mkdir(parents=True)
    affine = np.array([[2, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])
    ijk = np.indices((91, 109, 91)).reshape(3, -1).T
    far = (((ijk - [45, 54, 45]) / [91, 109, 91]) ** 2).sum(1)
    mask = np.zeros(len(ijk), np.uint8)
    mask[np.argsort(far, kind="stable")[:BRAIN_VOXELS]] = 1
    image = nib.Nifti1Image(mask.reshape(91, 109, 91), affine)
    nib.save(image, folder / "tpl-MNI152NLin6Asym_res-02_desc-brain_mask.nii.gz")


@pytest.mark.parametrize("source", ["parcels", "exported"])
def test_their_smoke_test_passes_on_parcels(source, request, brainmarks):
    found = request.getfixturevalue(source)
    assert "2 passed" in brainmarks(found, "models.test_models", "test_model[fmritok")


@pytest.mark.parametrize("space", ["fslr64k", "fslr91k", "mni"])
def test_their_smoke_test_passes_on_one_training_in_several_spaces(cortex, brainmarks, space):
    training, grayordinates = cortex
    code = f"""
import sys
from functools import partial
import brainmarks.models.registry as registry
model = registry._MODEL_REGISTRY["fmritok"]
registry._MODEL_REGISTRY["fmritok"] = partial(
    model, space={space!r}, grayordinates={str(grayordinates)!r})
import pytest
from brainmarks.models import test_models
sys.exit(pytest.main(["-q", "-k", "fmritok", test_models.__file__]))
"""
    (brainmarks.folder / "plugins/brainmarks/smoke.py").write_text(code)
    assert "2 passed" in brainmarks(training, "smoke")


QUICK = ("device=cpu", "num_workers=1", "amp=false", "model_kwargs.windows=2")


@pytest.mark.parametrize("source", ["parcels", "exported"])
def test_their_logistic_regression_finds_what_was_simulated(source, request, brainmarks):
    found = request.getfixturevalue(source)
    brainmarks(found, "main_logistic", "fmritok", "cls", "simulated", "--overrides", *QUICK,
               "n_trials=2")  # fmt: skip
    (path,) = brainmarks.folder.rglob("eval_table.csv")
    table = pd.read_csv(path)
    assert table[table["split"] == "test"]["bacc"].mean() > 0.85


@pytest.mark.parametrize("classifier", ["linear", "attn"])
def test_their_probes_find_what_was_simulated(parcels, brainmarks, classifier):
    brainmarks(parcels, "main_probe", "fmritok", "patch", classifier, "simulated", "--overrides",
               *QUICK, "epochs=2", "steps_per_epoch=20", "batch_size=20", "warmup_epochs=1",
               "accum_iter=1", "lr_scale_grid=[1,10,50]")  # fmt: skip
    (path,) = brainmarks.folder.rglob("eval_table.csv")
    table = pd.read_csv(path)
    assert table[table["split"] == "test"]["acc"].min() > 0.9


def test_a_training_is_needed(brainmarks):
    from brainmarks.models.registry import create_model

    with pytest.raises(ValueError, match="Brainmarks model fmritok: expected a training"):
        create_model("fmritok")


def test_a_space_that_the_tokenizer_does_not_read_is_refused(cortex, brainmarks):
    from brainmarks.models.registry import create_model

    training, _ = cortex
    with pytest.raises(ValueError, match="expected a CIFTI file with its grayordinates"):
        create_model("fmritok", training=str(training), space="fslr91k")
    with pytest.raises(ValueError, match="schaefer400_tians3_buckner7"):
        create_model("fmritok", training=str(training), space="schaefer400_tians3_buckner7")
