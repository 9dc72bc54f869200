"""Start a Dask cluster from a YAML file, for example as SLURM jobs.

::

    # slurm.yaml
    cluster: dask_jobqueue.SLURMCluster
    options: {cores: 1, memory: 8GB, walltime: "12:00:00"}
    workers: 40

``cluster`` is a class of one of Dask's cluster packages (:data:`KNOWN`), ``options`` its arguments.
``docs/clusters`` has examples for SLURM, Kubernetes and several GPUs.

A YAML file that can import any class is a program. Classes outside of Dask's packages are therefore
imported only if the user also names them on the command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from fmritok.errors import FmritokError, expected, wrong_usage

__all__ = ["KNOWN", "ClusterConfig", "read_cluster", "started"]

#: Modules of Dask's cluster packages, and their classes.
KNOWN = {
    "coiled": ("Cluster",),
    "dask.distributed": ("LocalCluster",),
    "dask_cloudprovider.aws": ("EC2Cluster", "ECSCluster", "FargateCluster"),
    "dask_cloudprovider.azure": ("AzureVMCluster",),
    "dask_cloudprovider.digitalocean": ("DropletCluster",),
    "dask_cloudprovider.gcp": ("GCPCluster",),
    "dask_cloudprovider.hetzner": ("HetznerCluster",),
    "dask_cloudprovider.ibm": ("IBMCodeEngineCluster",),
    "dask_cloudprovider.openstack": ("OpenStackCluster",),
    "dask_cuda": ("LocalCUDACluster",),
    "dask_gateway": ("GatewayCluster",),
    "dask_jobqueue": ("HTCondorCluster", "LSFCluster", "MoabCluster", "OARCluster",
                      "PBSCluster", "SGECluster", "SLURMCluster"),
    "dask_kubernetes": ("HelmCluster", "KubeCluster"),
    "dask_kubernetes.classic": ("KubeCluster",),
    "dask_kubernetes.operator": ("KubeCluster",),
    "dask_yarn": ("YarnCluster",),
    "distributed": ("LocalCluster",),
}  # fmt: skip


@dataclass(frozen=True)
class ClusterConfig:
    """Configuration of a cluster.

    Attributes
    ----------
    cluster : str
        Class of the cluster, with its module.
    options : dict
        Arguments of the class.
    workers : int, optional
        Number of workers to request. Default: as in the options.
    """

    cluster: str
    options: dict[str, Any] = field(default_factory=dict)
    workers: int | None = None

    def build(self, trusted: str | None = None) -> Any:
        """Create the cluster, without requesting workers.

        Parameters
        ----------
        trusted : str, optional
            A class outside of :data:`KNOWN` that may be imported.

        Raises
        ------
        FmritokError
            If the class is neither known nor trusted, its package is not installed, or an option is
            unknown.
        """
        module, _, name = str(self.cluster).rpartition(".")
        if name not in KNOWN.get(module, ()) and self.cluster != trusted:
            known = ", ".join(sorted({module.partition(".")[0] for module in KNOWN}))
            raise wrong_usage(FmritokError(
                expected("Cluster", self.cluster, f"a class of Dask's cluster packages ({known})",
                         "another one, which was not imported", "If you trust it and this file, "
                         f"add --trust-cluster {self.cluster}.")
            ))  # fmt: skip
        try:
            kind = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise FmritokError(
                expected("Cluster", self.cluster, "a class of Dask's cluster interface",
                         f"{type(error).__name__}: {error}",
                         f"Install {module.partition('.')[0].replace('_', '-')}.")
            ) from error  # fmt: skip
        try:
            return kind(**self.options)
        except RuntimeError as error:
            raise FmritokError(
                expected("Cluster", self.cluster, "to start", error, "Correct its options.")
            ) from error
        except (TypeError, ValueError) as error:
            raise FmritokError(
                expected("Options of cluster", self.cluster, "arguments that it has", error,
                         "Correct them in the YAML.")
            ) from error  # fmt: skip


def read_cluster(path: Path) -> ClusterConfig:
    """Read the YAML file of a cluster.

    Raises
    ------
    FmritokError
        If the file is missing or invalid.
    """
    import yaml

    keys = {"cluster", "options", "workers"}
    cause: Exception | None = None
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(tree, dict) and "cluster" in tree and keys.issuperset(tree):
            return ClusterConfig(**tree)
        got = f"the keys {', '.join(map(str, tree))}" if isinstance(tree, dict) else repr(tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        got, cause = f"{type(error).__name__}: {error}", error
    raise wrong_usage(FmritokError(
        expected("Cluster file", path, "YAML with cluster, options and workers", got,
                 "Start from one in docs/clusters.")
    )) from cause  # fmt: skip


@contextmanager
def started(path: Path, trusted: str | None = None) -> Iterator[Any]:
    """Start a cluster; close it on exit.

    Parameters
    ----------
    path : Path
        YAML file of the cluster.
    trusted : str, optional
        See :meth:`ClusterConfig.build`.

    Yields
    ------
    distributed.deploy.Cluster
    """
    config = read_cluster(path)
    with config.build(trusted) as cluster:
        if config.workers is not None:
            cluster.scale(config.workers)
        yield cluster
