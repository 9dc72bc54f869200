"""Cluster files: the examples of the documentation, errors, and allowed classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from commands import tokenize_series

from fmritok.errors import FmritokError
from fmritok.pipeline.tokenization.clusters import KNOWN, read_cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "clusters"


def test_the_slurm_example_asks_for_what_it_says(monkeypatch, tmp_path):
    """The job script that SLURM would be given: resources, environment, one thread per worker."""
    config = read_cluster(EXAMPLES / "slurm.yaml")
    assert config.workers == 40
    pytest.importorskip("dask_jobqueue")
    with config.build() as cluster:
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


def test_every_example_reads_and_names_what_to_install():
    for path in sorted(EXAMPLES.glob("*.yaml")):
        config = read_cluster(path)
        package = config.cluster.partition(".")[0]
        assert f"pip install {package.replace('_', '-')}" in path.read_text()
        try:
            __import__(package)
        except ImportError:
            with pytest.raises(FmritokError, match=f"Install {package.replace('_', '-')}"):
                config.build()


def test_a_cluster_file_starts_a_cluster(two_runs, tmp_path):
    """The same path with a class that runs here."""
    path = tmp_path / "local.yaml"
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False,
               "dashboard_address": None}  # fmt: skip
    path.write_text(yaml.safe_dump({"cluster": "distributed.LocalCluster", "options": options}))
    result = tokenize_series(two_runs, tmp_path / "t.zarr", "--cluster", path)
    assert result.exit_code == 0, result.output
    both = tokenize_series(
        two_runs, tmp_path / "t.zarr", "--cluster", path, "--scheduler", "tcp://x:1"
    )
    assert both.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster: [", "YAML with cluster"),
        ("klaster: x", "YAML with cluster, options and workers, got the keys klaster"),
        ("hello", "YAML with cluster, options and workers, got 'hello'"),
        ("cluster: distributed.NoSuchCluster", "a class of Dask's cluster packages"),
        ("cluster: distributed.deploy.NoSuchCluster", "a class of Dask's cluster interface"),
        ("cluster: distributed.SpecCluster\noptions: {n_werkers: 1}", "arguments that it has"),
    ],
)
def test_wrong_cluster_files_have_words(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    trusted = ("distributed.deploy.NoSuchCluster", "distributed.SpecCluster")

    def build():
        config = read_cluster(path)
        return config.build(config.cluster if config.cluster in trusted else None)

    with pytest.raises(FmritokError, match=words):
        build()


def test_a_cluster_file_imports_and_calls_nothing_but_dask_s_clusters(
    two_runs, tmp_path, monkeypatch
):
    """A module that leaves a trace when it is imported, and one of the standard library."""
    trace = tmp_path / "trace"
    (tmp_path / "mycluster.py").write_text(
        f"import distributed, pathlib\npathlib.Path({str(trace)!r}).touch()\n"
        "class Mine(distributed.LocalCluster): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path, store = tmp_path / "c.yaml", tmp_path / "t.zarr"
    for name in ("mycluster.Mine", "subprocess.Popen", "distributed.deploy.utils.os.system",
                 "dask_jobqueue.core.Job", "LocalCluster"):  # fmt: skip
        path.write_text(yaml.safe_dump({"cluster": name, "options": {"args": ["true"]}}))
        result = tokenize_series(two_runs, store, "--cluster", path)
        assert result.exit_code == 2
        assert f"--trust-cluster {name}" in result.output
    trusted = ("--trust-cluster", "mycluster.Other")
    assert tokenize_series(two_runs, store, "--cluster", path, *trusted).exit_code == 2
    assert not trace.exists()
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False,
               "dashboard_address": None}  # fmt: skip
    path.write_text(yaml.safe_dump({"cluster": "mycluster.Mine", "options": options}))
    result = tokenize_series(
        two_runs, store, "--cluster", path, "--trust-cluster", "mycluster.Mine"
    )
    assert result.exit_code == 0, result.output
    assert trace.exists()
    assert tokenize_series(two_runs, store, "--trust-cluster", "mycluster.Mine").exit_code == 2


def test_known_clusters_are_dask_s_own():
    """Every class that is known and installed is a class of Dask's cluster interface."""
    from importlib import import_module

    from distributed.deploy import Cluster

    for module, names in KNOWN.items():
        try:
            found = import_module(module)
        except ImportError:
            continue
        assert all(issubclass(getattr(found, name), Cluster) for name in names)
