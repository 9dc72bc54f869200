"""The wheel and the sdist are complete: their files, and every step from data to a probe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("brainmarks", "fmritok", "pipeline", "tokenizers", "trainer")
#: Folders that lie in the wheel as they lie here; the others lie in ``fmritok/``.
AS_HERE = ("brainmarks", "fmritok")
#: The record of the training of the embedded weights.
LEFT_OUT = {"tokenizers/vae/dcae_tiny/training.json"}
#: What setuptools adds to an sdist.
GENERATED = {"PKG-INFO", "setup.cfg"}
needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason=f"{ROOT} is no git checkout")


class Built(NamedTuple):
    """The two files that are published."""

    sdist: Path
    wheel: Path


def environment() -> dict[str, str]:
    """Return the environment of a user: nothing that leads Python to this checkout."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {k: v for k, v in os.environ.items() if k not in ours} | {
        "PYTHONSAFEPATH": "1",
        "HF_HUB_OFFLINE": "1",
    }


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command that has to succeed; return its standard output."""
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked() -> set[str]:
    """Return the files that git tracks, less those that are deleted here."""
    names = call("git", "ls-files", "-z", cwd=ROOT).split("\0")
    return {name for name in names if name and (ROOT / name).exists()}


def sources() -> set[str]:
    """Return the files to build from. An unpacked sdist has no git, but a list of its files."""
    if (ROOT / ".git").exists():
        return tracked()
    return set((ROOT / "fmritok.egg-info" / "SOURCES.txt").read_text().splitlines())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the sdist from a copy of this folder, and the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("build")
    for name in sources():
        copy = folder / "fmritok" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "fmritok",
         cwd=folder)  # fmt: skip
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def fresh(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment that borrows our other packages; return its root.

    Its ``.pth`` file adds our folders of packages to the path. Python does not read ``.pth`` files
    in folders that are added this way, so the editable install of this checkout stays behind.
    """
    root = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(root, symlinks=True)
    call(sys.executable, "-m", "pip", "--python", root / "bin" / "python", "install", "--quiet",
         "--no-index", "--no-deps", built.wheel, cwd=root)  # fmt: skip
    (packages,) = root.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return root


@needs_git
@pytest.mark.slow
def test_the_wheel_has_every_file_of_its_folders(built):
    with zipfile.ZipFile(built.wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {name for name in tracked() if name.split("/")[0] in PARTS}
    assert ours >= LEFT_OUT
    assert files == {
        name if name.split("/")[0] in AS_HERE else f"fmritok/{name}" for name in ours - LEFT_OUT
    }


@needs_git
@pytest.mark.slow
def test_the_sdist_has_every_file_that_git_tracks(built):
    with tarfile.open(built.sdist) as archive:
        members = [member.name for member in archive if member.isfile()]
    files = {name.split("/", 1)[1] for name in members}
    files -= {name for name in files if name in GENERATED or name.startswith("fmritok.egg-info/")}
    assert files == tracked()


@pytest.mark.slow
def test_only_the_wheel_is_imported(fresh, tmp_path):
    code = """
import fmritok, fmritok.tokenizers, fmritok.pipeline, fmritok.trainer, torch
for part in (fmritok, fmritok.tokenizers, fmritok.pipeline, fmritok.trainer):
    print(*part.__path__, sep="\\n")
print(fmritok.pipeline.__file__)
"""
    for path in call(fresh / "bin" / "python", "-c", code, cwd=tmp_path).splitlines():
        assert Path(path).is_relative_to(fresh), path


@pytest.mark.slow
def test_the_wheel_goes_from_data_to_a_probe(fresh, tmp_path):
    def fmritok(*arguments: str) -> str:
        return call(fresh / "bin" / "fmritok", *arguments, cwd=tmp_path)

    # Four subjects are the fewest whose sex can be told in two folds; 8 frames the shortest run.
    cohort = ("--dataset", "demo", "--root", "cohort")
    made = fmritok("demo-data", "cohort", "--subjects", "4", "--minutes", "0.27", "--tr", "2",
                   "--run", "rfMRI_REST1_LR")  # fmt: skip
    assert "4 simulated runs of 8 frames: cohort" in made
    assert "demo: 4 runs of 4 subjects" in fmritok("catalog", *cohort)
    names = ("vae", "flatmap", "network")
    encoded = fmritok("tokenize", *cohort, "--store", "tokens.zarr", "--executor", "serial",
                      *(x for name in names for x in ("--tokenizer", name)),
                      "--set", "network.band=null")  # fmt: skip
    for name in names:
        assert f"{name}: 4 runs, 32 frames in " in encoded
    groups = json.loads(fmritok("inspect", "--store", "tokens.zarr", "--json"))["groups"]
    assert {name: groups[name]["runs"] for name in names} == dict.fromkeys(names, {"done": 4})
    assert "tokens.zarr is sound" in fmritok("verify", "--store", "tokens.zarr")
    trained = fmritok("train", "--store", "tokens.zarr", "--group", "vae", "--recipe", "tiny",
                      "--out", "trainings/first", "--steps", "2", "--loader-workers", "0",
                      "--set", "model.width=16", "--set", "data.window=8")  # fmt: skip
    assert "Checkpoint: trainings/first/checkpoints/step-00000002" in trained
    assert (tmp_path / "trainings/first/loss.png").exists()
    probed = fmritok("probe", "--store", "tokens.zarr", "--training", "trainings/first",
                     "--target", "sex", "--folds", "2", "--seeds", "1", "--crops", "1",
                     "--no-cache")  # fmt: skip
    assert "balanced accuracy" in probed
    bold = next((tmp_path / "cohort").rglob("rfMRI_REST1_LR*.nii.gz"))
    shutil.copy(bold, tmp_path / "sub-01_bold.nii.gz")
    example = "import fmritok, inspect; example = inspect.getdoc(fmritok).partition('::')[2]\n"
    example += "import textwrap; exec(textwrap.dedent(example)); print(out, tokens, group)"
    said = call(fresh / "bin" / "python", "-c", example, cwd=tmp_path)
    assert "Embedding(1 window of 8 x 27 tokens, 16 features)" in said
