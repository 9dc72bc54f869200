"""Fixtures that several test modules share."""

from __future__ import annotations

import os

# Modules run side by side, one on each core: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from stores import table_of_runs, write_store
from two_ranks import TwoRanks

from fmritok.pipeline.resources.templates import fetch_template
from fmritok.pipeline.store.location import Location
from fmritok.terminal import Verbosity, set_verbosity

pytest.register_assert_rewrite("fmritok.testing")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-cases",
        action="store_true",
        help="tests of crashes and damage: every case instead of a sample; hours on two cores",
    )
    parser.addoption(
        "--cases", type=int, metavar="N", help="as above: samples of N cases of every kind"
    )


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later collection of garbage."""
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests of every case the time they take."""
    if config.getoption("--all-cases") or config.getoption("--cases"):
        for item in items:
            if item.path.name.endswith(("_crashes.py", "_damage.py")):
                item.add_marker(pytest.mark.timeout(0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many faults were tried, and how many of them did no harm."""
    found: dict[str, dict[str, list[int]]] = {"crash": {}, "damage": {}}
    third: list[str] = []
    unfinished = 0
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "third" and getattr(report, "when", "") == "call":
                    third += value
                elif name == "unfinished" and getattr(report, "when", "") == "call":
                    unfinished += value
                if name in found and getattr(report, "when", "") == "call":
                    *what, cases, wrong = value
                    line = found[name].setdefault(", ".join(what), [0, 0])
                    line[0], line[1] = line[0] + cases, line[1] + wrong
    for name, word in (("crash", "healed"), ("damage", "noticed or harmless")):
        if not (lines := found[name]):
            continue
        terminalreporter.section(f"{name} harness")
        for what, (cases, wrong) in lines.items():
            terminalreporter.write_line(f"{what}: {cases - wrong} of {cases}")
        if name == "crash" and unfinished:
            terminalreporter.write_line(f"{unfinished} of them leave unfinished files in the store")
        for line in third if name == "damage" else ():
            terminalreporter.write_line(f"third outcome: {line}")
        cases, wrong = (sum(line[i] for line in lines.values()) for i in (0, 1))
        terminalreporter.write_line(f"{name} harness: {cases - wrong} of {cases} {word}")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Let the system write to the disk when it likes: no test switches the machine off."""

    def nothing(descriptor: int) -> None:
        pass

    with mock.patch("os.fsync", nothing):
        yield


@pytest.fixture(scope="session", autouse=True)
def _features_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep features of probes out of the user's cache."""
    with mock.patch.dict(os.environ, FMRITOK_CACHE=str(tmp_path_factory.mktemp("cache"))):
        yield


@pytest.fixture(autouse=True)
def _usual_verbosity() -> Iterator[None]:
    """Undo ``-q`` and ``-v`` of commands that ran in this process."""
    yield
    set_verbosity(Verbosity.NORMAL)
    logging.getLogger("fmritok").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _no_loss_curve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the picture of the losses, which takes longer than most trainings of tests."""
    module = "fmritok.trainer.training.loop"
    if module in sys.modules and not request.node.get_closest_marker("loss_curve"):
        monkeypatch.setattr(f"{module}.plot_losses", lambda *_: None)


@pytest.fixture(scope="module")
def fast_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder in memory where there is one, for tests that write thousands of files."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("fast")
        return
    folder = Path(tempfile.mkdtemp(prefix="fmritok-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real test data; tests that need it skip without it, except in CI."""
    folder = Path(os.environ.get("FMRITOK_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "MANIFEST.md").exists():
        message = f"no test data at {folder}: set FMRITOK_TEST_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def fslr(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the fs_LR template of the test data."""
    return fetch_template(tmp_path_factory.mktemp("fslr"), data / "surfaces").parent


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small autoencoder of random weights: fast, and of the full one's shape."""
    from autoencoders import save_random_autoencoder

    return str(save_random_autoencoder(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[TwoRanks]:
    """Two processes for tests of trainings in several: they are started once."""
    ranks = TwoRanks()
    yield ranks
    ranks.stop()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread, in which sums are always taken in the same order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)


@pytest.fixture
def run_table() -> Callable[..., pd.DataFrame]:
    """Make a table of catalogued runs, as the pipeline hands it to the store."""
    return table_of_runs


@pytest.fixture(scope="session")
def made_stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """Return what was written for some arguments: a folder, and what its writer returned."""
    folder, written = tmp_path_factory.mktemp("stores"), {}

    def once(write: Callable[[Path], Any], *arguments: object) -> tuple[Path, Any]:
        if (key := repr(arguments)) not in written:
            path = folder / f"{len(written)}.zarr"
            written[key] = path, write(path)
        return written[key]

    return once


@pytest.fixture
def make_store(
    tmp_path: Path, made_stores: Callable[..., tuple[Path, Any]]
) -> Callable[..., tuple[Location, dict[str, np.ndarray]]]:
    """Write a small store by ``stores.write_store``; one of equal arguments is copied.

    Returns the location and each run's float32 values before they were stored.
    """

    def make(
        lengths: list[int],
        *,
        url: str | Path | None = None,
        values: Callable[[int, int], np.ndarray] | None = None,
        **options: Any,
    ) -> tuple[Location, dict[str, np.ndarray]]:
        location = Location(url or tmp_path / "tokens.zarr")
        if values is not None or "://" in location.url or Path(location.url).exists():
            return location, write_store(location, lengths, values=values, **options)
        store, written = made_stores(
            lambda folder: write_store(Location(folder), lengths, **options), lengths, options
        )
        shutil.copytree(store, location.url)
        return location, {name: x.copy() for name, x in written.items()}

    return make
