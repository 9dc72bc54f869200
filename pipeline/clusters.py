"""Start the Dask cluster that a small YAML describes, such as SLURM jobs.

::

    # slurm.yaml
    cluster: dask_jobqueue.SLURMCluster
    options: {cores: 1, memory: 8GB, walltime: "12:00:00"}
    workers: 40

``cluster`` is any class of Dask's cluster interface, ``options`` its arguments. Recipes for SLURM,
Kubernetes and several GPUs lie in ``docs/clusters``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from fmritok.pipeline.errors import FmritokError, expected

__all__ = ["ClusterRecipe", "read_recipe", "started"]


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

    def build(self) -> Any:
        """Make the cluster, without asking for workers.

        Raises
        ------
        FmritokError
            If its package is not installed, or does not take the options.
        """
        module, _, name = self.cluster.rpartition(".")
        try:
            kind = getattr(import_module(module), name)
            return kind(**self.options)
        except (ImportError, AttributeError, ValueError) as error:
            raise FmritokError(
                expected("Cluster", self.cluster, "a class of Dask's cluster interface",
                         f"{type(error).__name__}: {error}",
                         f"Install {module.partition('.')[0].replace('_', '-')}.")
            ) from error  # fmt: skip
        except RuntimeError as error:
            raise FmritokError(
                expected("Cluster", self.cluster, "to start", error, "Correct its options.")
            ) from error
        except TypeError as error:
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
        raise FmritokError(
            expected("Cluster file", path, "YAML with cluster, options and workers",
                     f"{type(error).__name__}: {error}", "Start from one in docs/clusters.")
        ) from error  # fmt: skip


@contextmanager
def started(path: Path) -> Iterator[Any]:
    """Start a cluster, and close it at the end.

    Yields
    ------
    distributed.deploy.Cluster
    """
    recipe = read_recipe(path)
    with recipe.build() as cluster:
        if recipe.workers is not None:
            cluster.scale(recipe.workers)
        yield cluster
