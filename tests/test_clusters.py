"""Clusters for real: a scheduler and workers of their own, and what recipes turn into."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from cohorts import write_run

from fmritok.pipeline.clusters import read_recipe
from fmritok.pipeline.errors import FmritokError
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.verify import verify_store
from fmritok.trainer.cli import main

RECIPES = Path(__file__).resolve().parent.parent / "docs" / "clusters"
GROUPS = ("--tokenizer", "flatmap", "--tokenizer", "network", "--set", "network.band=null",
          "--set", "network.tr=null")  # fmt: skip
RUNS = 24


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("cluster") / "hcp"
    for i in range(RUNS):
        write_run(root, f"{100001 + i}", frames=24)
    return root


def tokenize(tree, store, *more):
    return CliRunner().invoke(
        main,
        [
            "tokenize",
            "--dataset",
            "hcp",
            "--root",
            str(tree),
            "--store",
            str(store),
            *GROUPS,
            *more,
        ],
    )


def started(*arguments):
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def stop(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def scheduler():
    """Start a scheduler process on loopback, as the documentation does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = started("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"tcp://127.0.0.1:{port}"
    stop(process)


def objects(store):
    """Every object of a store that holds tokens or says something of a run, by name."""
    kept = {"tokens", "mean", "std", "scale", "samples", "coverage", "runs"}
    found = {path.relative_to(store): path for path in Path(store).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if kept & {*name.parts[1:2]}}


def test_a_killed_and_a_late_worker_leave_the_same_store(tree, tmp_path, scheduler):
    """Two worker processes; one is killed in the middle of a run, a third joins on the way."""
    reference = tmp_path / "serial.zarr"
    assert tokenize(tree, reference, "--executor", "serial").exit_code == 0
    worker = ("worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    workers = [started(*worker), started(*worker)]
    store = tmp_path / "cluster.zarr"
    command = subprocess.Popen(
        [sys.executable, "-m", "fmritok.trainer.cli", "tokenize", "--dataset", "hcp", "--root",
         str(tree), "--store", str(store), *GROUPS, "--scheduler", scheduler],
        env={**os.environ, "PYTHONSAFEPATH": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        finished = store / "network" / "records"
        while command.poll() is None and len(list(finished.glob("*/zarr.json"))) < 3:
            time.sleep(0.01)
        stop(workers[0])
        workers.append(started(*worker))
        output, errors = command.communicate(timeout=240)
    finally:
        for process in (*workers, command):
            stop(process)
    assert command.returncode == 0, output + errors
    assert len(TokenStore(store).group("network").runs) == RUNS
    assert objects(store) == objects(reference)
    assert list(verify_store(TokenStore(store).location)) == []


def test_a_scheduler_that_does_not_answer_is_one_error(tree, tmp_path, monkeypatch):
    import dask
    import distributed  # noqa: F401  its own defaults must be there before one is changed

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = tokenize(tree, tmp_path / "t.zarr", "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 1
    assert "Dask scheduler tcp://127.0.0.1:1: expected one that answers" in result.output


def test_the_slurm_recipe_asks_for_what_it_says(monkeypatch, tmp_path):
    """The job script that SLURM would be given: resources, environment, one thread per worker."""
    recipe = read_recipe(RECIPES / "slurm.yaml")
    assert recipe.workers == 40
    pytest.importorskip("dask_jobqueue")
    with recipe.build() as cluster:
        script = cluster.job_script()
    lines = script.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    for line in ("#SBATCH -p standard", "#SBATCH --cpus-per-task=4", "#SBATCH --mem=12G",
                 "#SBATCH -t 12:00:00"):  # fmt: skip
        assert line in lines
    assert "export MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_MMAP_THRESHOLD_=268435456" in lines
    assert "export OMP_NUM_THREADS=4 MKL_NUM_THREADS=4 OMP_WAIT_POLICY=PASSIVE" in lines
    start = lines[-1]
    assert start.rindex("--nthreads 1") > start.find("--nthreads 4")  # the last one counts
    assert "--nworkers" not in start or "--nworkers 1" in start


def test_every_recipe_reads_and_names_what_to_install():
    for path in sorted(RECIPES.glob("*.yaml")):
        recipe = read_recipe(path)
        package = recipe.cluster.partition(".")[0]
        assert f"pip install {package.replace('_', '-')}" in path.read_text()
        try:
            __import__(package)
        except ImportError:
            with pytest.raises(FmritokError, match=f"Install {package.replace('_', '-')}"):
                recipe.build()


def test_a_cluster_file_starts_a_cluster(tree, tmp_path):
    """The same path with a class that runs here."""
    path = tmp_path / "local.yaml"
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False,
               "dashboard_address": None}  # fmt: skip
    path.write_text(yaml.safe_dump({"cluster": "distributed.LocalCluster", "options": options}))
    result = tokenize(tree, tmp_path / "t.zarr", "--cluster", path)
    assert result.exit_code == 0, result.output
    both = tokenize(tree, tmp_path / "t.zarr", "--cluster", path, "--scheduler", "tcp://x:1")
    assert both.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster: [", "YAML with cluster"),
        ("klaster: x", "YAML with cluster"),
        ("cluster: distributed.NoSuchCluster", "a class of Dask's cluster interface"),
        ("cluster: distributed.SpecCluster\noptions: {n_werkers: 1}", "arguments that it has"),
    ],
)
def test_wrong_cluster_files_have_words(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(FmritokError, match=words):
        read_recipe(path).build()
