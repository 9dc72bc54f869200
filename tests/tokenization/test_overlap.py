"""Two runs are in flight on a GPU: one is read while the other is encoded. Tokens are the same."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from autoencoders import save_random_autoencoder
from commands import tokenize, written
from distributed import Client, LocalCluster

from fmritok.pipeline.tokenization.local_cluster import started_here
from fmritok.tokenizers.vae import autoencoder
from fmritok.tokenizers.vae.intensity import VolumeStatistics
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(save_random_autoencoder(tmp_path_factory.mktemp("dc")))


def meeting():
    """Return what lets a run end its encoding only when the other one is being read.

    It is nested to be pickled by value: workers cannot import tests.
    """

    def meet() -> None:
        from distributed import Event

        from fmritok.pipeline.tokenization import task

        read, encode = task._RunWork.read, task._RunWork.encode_and_write

        def reading(self):
            if "100002" in self._task.run_id:
                assert Event("encoding").wait(timeout=100), "nothing was encoded meanwhile"
                Event("reading").set()
            read(self)

        def encoding(self, part):
            Event("encoding").set()
            assert Event("reading").wait(timeout=100), "nothing was read meanwhile"
            return encode(self, part)

        task._RunWork.read, task._RunWork.encode_and_write = reading, encoding

    return meet


def workers_of_one_gpu(kind: str):
    if kind == "threads":  # as users start them
        return LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0")
    return started_here(2, 1, gpus=["0", "0"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_runs_overlap_and_their_tokens_are_those_of_one_after_another(
    two_runs, weights, tmp_path, kind
):
    options = ("--device", "cpu")
    assert tokenize(two_runs, tmp_path / "one.zarr", weights, *options).exit_code == 0
    with workers_of_one_gpu(kind) as cluster, Client(cluster) as client:
        client.wait_for_workers(2 if kind == "processes" else 1, timeout=120)
        client.run(meeting())
        found = tokenize(
            two_runs, tmp_path / "two.zarr", weights, *options,
            "--scheduler", cluster.scheduler_address, executor="dask",
        )  # fmt: skip
    assert found.exit_code == 0, found.output
    one, two = written(tmp_path / "one.zarr"), written(tmp_path / "two.zarr")
    assert len(one) > 4
    assert one == two


def test_threads_encode_one_at_a_time(weights, rng):
    """Torch's switches for products hold for the whole process."""
    frames = np.zeros((1, 96, 96, 96), np.float32)
    frames[:, 40:44, 40:44, 40:44] = rng.uniform(1, 9, (4, 4, 4))
    inside, another = [], threading.Event()
    most = []

    def encode(arithmetic):
        tokenizer = VaeTokenizer(weights, arithmetic=arithmetic)
        tokenizer.setup()
        inner = tokenizer._autoencoder._by_frame

        def watched(*arguments):
            inside.append(arithmetic)
            most.append(len(inside))
            if len(inside) > 1:
                another.set()
            another.wait(timeout=0.5)  # a second thread would come
            inside.remove(arithmetic)
            return inner(*arguments)

        tokenizer._autoencoder._by_frame = watched
        tokenizer.encode(frames, tokenizer.fit(VolumeStatistics(9.0)))

    threads = [threading.Thread(target=encode, args=(name,)) for name in ("fp32", "tf32")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]
    assert not autoencoder._ONE_AT_A_TIME.locked()
