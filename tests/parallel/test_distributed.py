"""Two processes and several parts train as one does; stops and resumes cross their number."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import started
from ranks import RUNS, SMALL, train, trainer

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.data.reading import WindowReader
from fmritok.trainer.data.windows import Request, RunIndex, Windows
from fmritok.trainer.objectives.coding_rate import coding_rate, rate_loss
from fmritok.trainer.parallel import distributed
from fmritok.trainer.parallel.distributed import Ranks, ShareOfBatches, is_placeholder, split_batch
from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.metrics import read_metrics


@pytest.fixture
def store(make_store):
    """Make a store whose epochs end with a batch of one window: one process has none of it."""
    return make_store([40, 9, 33, 20, 16], n_tokens=4, dim=6)[0].url


def _figures(out):
    names = {"tokens_per_s", "stall_share", "memory_bytes", "effective_rank", "embedding_std"}
    rows = [{k: v for k, v in row.items() if k not in names} for row in read_metrics(out)]
    return [row.pop("kind") for row in rows], rows


def test_two_processes_and_several_parts_have_the_loss_curve_of_one(store, tmp_path, two_ranks):
    """Windows of unequal length, and batches that leave a process without any."""
    two_ranks.do("train_as_rank", tmp_path, store)
    for name, (options, parts, _) in RUNS.items():
        one, two = tmp_path / f"{name}-one", tmp_path / f"{name}-two"
        summary = train(store, one, options, parts, Ranks())
        (kinds, rows), (other_kinds, others) = _figures(one), _figures(two)
        assert kinds == other_kinds
        assert kinds.count("validation") == 2
        for a, b in zip(rows, others, strict=True):
            assert a == pytest.approx(b, rel=2e-4, abs=2e-6), name
        states = [find_checkpoint(out).state for out in (one, two)]
        assert states[0]["position"]["seen"] == states[1]["position"]["seen"]
        assert summary.validated
    # In parts or not: the same, for losses that are sums.
    for a, b in zip(_figures(tmp_path / "mtm-one")[1], _figures(tmp_path / "mtm-parts-one")[1],
                    strict=True):  # fmt: skip
        assert a == pytest.approx(b, rel=2e-4, abs=2e-6)


def test_two_processes_share_the_folder_and_the_checkpoint_of_the_first(store, tmp_path, two_ranks):
    """Though each of them was given another folder, and the latest checkpoint is damaged."""
    often = ["train.checkpoint_every=2"]
    trainer(store, tmp_path / "a", often).run()
    latest = find_checkpoint(tmp_path / "a")
    assert latest.step == 7
    latest.folder.joinpath("runs.json").unlink()
    two_ranks.do("resume_in_two", tmp_path, store, often)
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1] == [6, str(tmp_path / "rank0" / "checkpoints" / "step-00000007")]
    assert not (tmp_path / "rank1").exists()
    assert not dist.is_initialized()


def test_a_loss_that_is_not_a_number_names_the_runs_of_all_processes(store, tmp_path, two_ranks):
    two_ranks.do("poison_as_rank", tmp_path, store)
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert "got loss nan and gradient norm nan" in texts[0]
    assert texts[0].count("demo_") >= 2


def _command(store, out):
    settings = [x for assignment in SMALL for x in ("--set", assignment)]
    return ["train", "--store", store, "--out", str(out), "--device", "cpu",
            "--loader-workers", "0", "--steps", "100000", *settings]  # fmt: skip


def test_a_signal_to_one_process_stops_the_command_in_all(store, tmp_path, two_ranks):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two_ranks.do("command_as_rank", tmp_path, port, _command(store, tmp_path / "out"))
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [status for status, _ in said] == [143, 143]
    assert "got SIGTERM after step 3" in said[1][1]
    assert find_checkpoint(tmp_path / "out").step == 3
    steps = [r["step"] for r in read_metrics(tmp_path / "out") if r["kind"] == "train"]
    assert steps == [1, 2, 3]
    assert not dist.is_initialized()


@pytest.mark.slow
def test_torchrun_starts_and_a_signal_stops_all_processes(store, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "--module", "fmritok.cli", *_command(store, out)]  # fmt: skip
    process = started(command, out, rows=8)
    os.kill(process.pid, signal.SIGTERM)  # torchrun passes it on
    _, text = process.communicate()
    assert process.returncode != 0
    step = find_checkpoint(out).step
    assert f"after step {step}" in text
    assert [r["step"] for r in read_metrics(out) if r["kind"] == "train"] == [*range(1, step + 1)]


def test_ranks_share_all_windows_and_get_equally_many_batches():
    requests = [Request(0, i, 0, 0, 9, i) for i in range(7)]
    batches = [requests[:4], requests[4:6], requests[6:]]
    shares = [list(ShareOfBatches(batches, Ranks(rank, 3))) for rank in range(3)]
    assert all(len(share) == 3 for share in shares)
    for i, batch in enumerate(batches):
        dealt = [request for share in shares for request in share[i] if request.sample >= 0]
        assert sorted(dealt) == batch
    assert [request.sample for request in shares[1][2]] == [-1]


@pytest.mark.parametrize(("batch_size", "per_read"), [(32, 4), (6, 4), (5, 3), (4, 8)])
def test_windows_of_one_read_go_to_one_rank(batch_size, per_read):
    """Unless a batch has fewer reads than ranks: then all ranks get about as many windows."""
    n = np.full(48, 30)
    windows = Windows.of(np.arange(48) // 8, 0 * n, n, n, per_read=per_read)
    batches = list(windows.batches(batch_size))
    for size in (1, 2, 3, 8):
        shares = [list(ShareOfBatches(batches, Ranks(rank, size))) for rank in range(size)]
        for i, batch in enumerate(batches):
            dealt = [[r for r in share[i] if r.sample >= 0] for share in shares]
            assert sorted(sum(dealt, [])) == batch
            readers = sum(len({request.read for request in share}) for share in dealt)
            reads = len({request.read for request in batch})
            if reads >= size:
                assert readers == reads
            else:
                counts = [len(share) for share in dealt]
                assert max(counts) - min(counts) <= 1


def test_the_parts_of_a_batch_are_the_whole_batch(make_store):
    group = TokenStore(make_store([20, 20], n_tokens=2, dim=3)[0].url).group()
    reader = WindowReader(group, RunIndex.of(group.runs, group.runs["run_id"].tolist()))
    batch = reader.__getitems__([Request(0, i, i % 2, 0, 9, i) for i in range(3)])
    assert split_batch(batch, 1) == [batch]
    parts = split_batch(batch, 5)
    assert [is_placeholder(part) for part in parts] == [False] * 3 + [True] * 2
    assert torch.equal(torch.cat([part.tokens for part in parts[:3]]), batch.tokens)
    assert torch.equal(torch.cat([part.draws for part in parts[:3]]), batch.draws)


def test_the_coding_rate_is_computed_over_all_processes(tmp_path, two_ranks):
    """Value and gradient, with unequal shares, and with a process that has no windows."""
    torch.manual_seed(0)
    x_MZ = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1)
    two_ranks.do("rate_as_rank", tmp_path, x_MZ.tolist())
    whole = x_MZ.clone().requires_grad_()
    rate = coding_rate(whole, epsilon=0.05)
    rate.backward()
    got = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    for part in got:
        assert float(part["rate"]) == pytest.approx(rate.item(), rel=1e-9)
    gradient = np.concatenate([part["gradient"] for part in got])
    np.testing.assert_allclose(gradient, whole.grad.numpy(), rtol=1e-5, atol=1e-7)
    alone = coding_rate(x_MZ[:5], epsilon=0.05).item()
    for rank in range(2):
        assert float(np.load(tmp_path / f"alone{rank}.npy")) == pytest.approx(alone, rel=1e-9)


def test_without_other_processes_nothing_is_summed():
    x = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=-1)
    assert torch.isfinite(rate_loss(x, x, epsilon=0.05))
    assert Ranks.join("cpu") == Ranks()


def test_process_groups_are_kept_until_the_process_ends(tmp_path):
    """Freed together with the model, it deadlocks now and then: its threads need Python's lock."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    group = dist.group.WORLD
    Ranks(0, 2, 0).leave()
    assert not dist.is_initialized()
    assert any(kept is group for kept in distributed._LEFT)
