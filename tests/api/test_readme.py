"""Every command and every piece of Python in the README works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from autoencoders import save_random_autoencoder
from cohorts import real_derivatives, real_tree

from fmritok.pipeline.resources.templates import fetch_template

ROOT = Path(__file__).resolve().parents[2]
#: Run by the continuous integration itself, or in need of a network.
ELSEWHERE = {
    "make demo",
    "make test",
    "fmritok fetch weights mit-han-lab/dc-ae-f32c32-in-1.0-diffusers",
    "fmritok fetch template --out templates/fslr",
    "fmritok fetch cohort adhd200-sample --out /data/adhd",
}


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.strip().splitlines()]


@pytest.mark.slow
def test_the_readme_works(data, tmp_path):
    """Run everything in order, on trees of real runs, with trainings cut short."""
    tree = real_tree(tmp_path / "HCP", data, frames=5)
    derivatives = real_derivatives(tmp_path / "fmriprep", data)
    fetch_template(tmp_path / "templates" / "fslr", data / "surfaces")
    hub = tmp_path / "hub"
    commit = "0" * 40
    snapshot = hub / "models--mit-han-lab--dc-ae-f32c32-in-1.0-diffusers" / "snapshots" / commit
    save_random_autoencoder(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_CACHE": str(hub),
        "PYTHONSAFEPATH": "1",
    }
    for inherited in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS"):  # of `make test` itself
        environment.pop(inherited, None)
    ran = []
    for line in commands():
        if line in ELSEWHERE:
            continue
        command = line.replace("/data/HCP", str(tree)).replace("/data/fmriprep", str(derivatives))
        if command.startswith("make"):
            store = "STORE=" + str(tmp_path / "tokens.zarr") if "STORE=" not in command else ""
            command = command.replace("STORE=", f"STORE={tmp_path}/") + " " + store
            command = command.replace("make ", f"make -C {shlex.quote(str(ROOT))} ", 1)
        if command.startswith("fmritok train"):
            command = command.replace("train.steps=200", "train.steps=4")
            command += "" if "train.steps" in command else " --set train.steps=4"
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        ran.append(line)
    assert len(ran) == len(commands()) - len(ELSEWHERE)
    bold = next(tree.rglob("*hp2000_clean.nii.gz"))
    shutil.copy(bold, tmp_path / "sub-01_bold.nii.gz")
    for code in blocks("python"):
        if "read_parquet" in code:  # tests/probing/test_outside.py: it needs more subjects
            continue
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "(5, 27, 3072)" in done.stdout


def test_nothing_is_left_out_without_a_reason():
    assert set(commands()) >= ELSEWHERE


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
