"""Start the Dask cluster that a small YAML describes, such as SLURM jobs.

::

    # slurm.yaml
    cluster: dask_jobqueue.SLURMCluster
    options: {cores: 1, memory: 8GB, walltime: "12:00:00"}
    workers: 40

``cluster`` is a class of one of Dask's cluster packages (:data:`KNOWN`), ``options`` its arguments.
Recipes for SLURM, Kubernetes and several GPUs lie in ``docs/clusters``.

A file that imports and calls what it likes is a program. Other classes are therefore imported only
if the user names them on the command line, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from fmritok.errors import FmritokError, expected, wrong_usage

__all__ = ["KNOWN", "ClusterRecipe", "read_recipe", "started"]

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
class ClusterRecipe:
    """What a YAML says of a cluster.

    Attributes
    ----------
    cluster : str
        Class of the cluster, with its module.
    options : dict
        Its arguments.
    workers : int, optional
        To ask for; default: what the options say.
    """

    cluster: str
    options: dict[str, Any] = field(default_factory=dict)
    workers: int | None = None

    def build(self, trusted: str | None = None) -> Any:
        """Make the cluster, without asking for workers.

        Parameters
        ----------
        trusted : str, optional
            A class that may be imported although it is not one of :data:`KNOWN`.

        Raises
        ------
        FmritokError
            If its class is neither known nor trusted, its package is not installed, or it does not
            take the options.
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


def read_recipe(path: Path) -> ClusterRecipe:
    """Read a cluster's YAML.

    Raises
    ------
    FmritokError
        If it is no such file.
    """
    import yaml

    try:
        return ClusterRecipe(**yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise wrong_usage(FmritokError(
            expected("Cluster file", path, "YAML with cluster, options and workers",
                     f"{type(error).__name__}: {error}", "Start from one in docs/clusters.")
        )) from error  # fmt: skip


@contextmanager
def started(path: Path, trusted: str | None = None) -> Iterator[Any]:
    """Start a cluster, and close it at the end.

    Parameters
    ----------
    path : Path
        Its YAML.
    trusted : str, optional
        See :meth:`ClusterRecipe.build`.

    Yields
    ------
    distributed.deploy.Cluster
    """
    recipe = read_recipe(path)
    with recipe.build(trusted) as cluster:
        if recipe.workers is not None:
            cluster.scale(recipe.workers)
        yield cluster
