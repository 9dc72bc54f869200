"""Long steps say how far they are: by a bar on a terminal, by dated lines in a log."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console
from tiny import fmritok, tokenize_options, write_atlas, write_cohort

from fmritok import progress, terminal
from fmritok.pipeline.commands import tokenize_output
from fmritok.pipeline.tokenization import telling
from fmritok.pipeline.tokenization.job import RunTask
from fmritok.progress import Progress, report, tracked

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (\w+): (.*)")


@pytest.fixture
def soon(monkeypatch):
    """Lines come at once."""
    monkeypatch.setattr(progress, "QUIET_S", 0.05)
    monkeypatch.setattr(progress, "EVERY_S", 0.05)


def eventually(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("width", [60, 80])
def test_a_bar_with_the_time_left_fits_the_terminal(monkeypatch, width):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with Progress("tokenize", console=console) as shown:
        monkeypatch.setattr(shown, "_start", time.monotonic() - 60)
        shown(480_000, 4_800_000, "frames", count="1,234 of 4,000 runs",
              remarks=["35.2 frames/s", "4 workers that are all at work"])  # fmt: skip
        shown._bar.refresh()
        text = out.getvalue()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()
    line = max(lines, key=len)
    assert len(line) <= width
    assert line.startswith("tokenize ")
    assert "1,234 of 4,000 runs" in line
    assert line.rstrip().endswith("9 min left")
    assert ("35.2 frames/s" in line) == (width == 80)
    assert "4 workers" not in line
    assert "…" not in line


def test_a_log_gets_dated_lines_and_an_end(soon):
    out = io.StringIO()
    with Progress("verify", console=Console(file=out, width=60)) as shown:
        for done in range(1200):
            shown(done + 1, 4000, "runs")
        eventually(lambda: "1,200 of 4,000 runs" in out.getvalue())
    lines = [LINE.fullmatch(line) for line in out.getvalue().splitlines()]
    assert all(lines)
    assert {line[1] for line in lines} == {"verify"}
    assert re.fullmatch(r"1,200 of 4,000 runs, .* left", lines[-2][2])
    assert lines[-1][2].startswith("done in ")


def test_short_steps_and_quiet_ones_print_nothing(monkeypatch, soon):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "_chosen", terminal.Verbosity.QUIET)
    with Progress("verify", console=Console(file=out)) as shown:
        shown(1, 4, "runs")
        time.sleep(0.2)
    monkeypatch.undo()  # ten seconds again
    with Progress("verify", console=Console(file=out)) as shown:
        shown(1, 4, "runs")
    assert out.getvalue() == ""


def test_a_new_part_of_a_step_has_its_own_time():
    with Progress("catalog", console=Console(file=io.StringIO())) as shown:
        shown._start -= 1000
        shown(10, 20, "folders")
        assert shown.left.endswith("min left")
        shown(0, 20, "headers")
        assert shown.left == ""
        shown(10, 20, "headers")
        assert shown.left == "under 1 s left"


def test_work_done_before_does_not_count_for_the_time_left():
    with Progress("training", console=Console(file=io.StringIO()), begun_at=900) as shown:
        shown._start -= 600
        shown(900, 1000, "steps")
        assert shown.left == ""
        shown(910, 1000, "steps")
        assert shown.left == "1 h 30 min left"


def test_inner_functions_report_to_the_current_step():
    report(1, 2, "runs")  # nobody listens
    with Progress("probe", console=Console(file=io.StringIO())) as shown:
        assert list(tracked("abc", 3, "batches")) == ["a", "b", "c"]
        assert shown._count == "3 of 3 batches"
    assert list(tracked("abc", 3, "batches")) == ["a", "b", "c"]
    assert shown._count == "3 of 3 batches"


@pytest.mark.parametrize("command", ["catalog", "verify", "decode"])
def test_commands_report_progress(tmp_path_factory, monkeypatch, command):
    folder = tmp_path_factory.mktemp("progress")
    cohort = write_cohort(folder / "cohort", ["100001", "100002"])
    done = fmritok(*tokenize_options(cohort, folder / "t.zarr", write_atlas(folder / "atlas")))
    assert done.exit_code == 0, done.output
    told = []
    monkeypatch.setattr(Progress, "__call__", lambda self, *a, **k: told.append((self.step, a, k)))
    options = {
        "catalog": ["--dataset", "hcp", "--root", cohort, "--input", "surface"],
        "verify": ["--store", folder / "t.zarr"],
        "decode": ["--store", folder / "t.zarr", "--run", "hcp_100001_tfMRI_MOTOR_LR", "--out",
                   folder / "a.tsv"],
    }  # fmt: skip
    assert fmritok(command, *options[command]).exit_code == 0
    assert {step for step, _, _ in told} == ({command} if command != "decode" else set())
    if command == "verify":
        assert [done for _, (done, *_), _ in told] == [1, 2]


def test_tokenize_reports_progress_within_runs(tmp_path, monkeypatch):
    """Reading and encoding count, from nothing to the whole run."""
    monkeypatch.setattr(telling, "_EVERY_S", 0.0)
    shares = []
    within = tokenize_output.RunProgress.within

    def noted(self, run_id, share):
        shares.append((run_id, share))
        within(self, run_id, share)

    monkeypatch.setattr(tokenize_output.RunProgress, "within", noted)
    cohort = write_cohort(tmp_path / "cohort", ["100001", "100002"], frames=300)
    done = fmritok(*tokenize_options(cohort, tmp_path / "t.zarr", write_atlas(tmp_path / "atlas")))
    assert done.exit_code == 0, done.output
    for run_id in {run_id for run_id, _ in shares}:
        of_run = [share for name, share in shares if name == run_id]
        assert of_run == sorted(of_run)
        assert 0 < of_run[0] < of_run[-1] == 1.0
    assert len({run_id for run_id, _ in shares}) == 2


def test_progress_counts_frames_of_unfinished_runs():
    tasks = [RunTask(name, None, frames, 1.0, ()) for name, frames in (("a", 100), ("b", 300))]
    with Progress("tokenize", console=Console(file=io.StringIO())) as shown:
        runs = tokenize_output.RunProgress(tasks, shown)
        runs.within("b", 0.5)
        assert (shown._done, shown._total, shown._count) == (150, 400, "0 of 2 runs")
        runs.follow([(tasks[0], {})])
        assert (shown._done, shown._count) == (250, "1 of 2 runs")
        runs.within("a", 0.7)  # told late
        assert shown._done == 250


def test_cluster_workers_report_progress(monkeypatch):
    from distributed import Client

    monkeypatch.setattr(telling, "_EVERY_S", 0.0)
    told = []

    def work():
        teller = telling.Teller("run", 4, None, "topic")
        for _ in range(4):
            teller.add(1)

    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as c:
        telling.followed(c, "topic", lambda run_id, share: told.append((run_id, share)))
        c.submit(work, pure=False).result()
        eventually(lambda: len(told) == 4)
    assert told == [("run", 0.25), ("run", 0.5), ("run", 0.75), ("run", 1.0)]


def test_a_part_that_goes_on_is_timed_from_where_it_was():
    """Folds of one encoder, features of the next one, its folds."""
    with Progress("probe", console=Console(file=io.StringIO())) as shown:
        shown(5, 20, "folds")
        shown(3, 3, "batches")
        shown(5, 20, "folds")
        shown._start -= 60
        shown(10, 20, "folds")
        assert shown.left == "2 min left"
