"""Measure time and peak memory of cataloguing a simulated HCP tree of many runs.

Every run has a folder with a volume (a header and two empty frames), the mean motion and, for
tasks, six event files. The files are in the page cache: the disk is not measured.
"""

from __future__ import annotations

import argparse
import gzip
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

REST = [f"rfMRI_REST{i}_{d}" for i in (1, 2) for d in ("LR", "RL")]
TASKS = ("WM", "GAMBLING", "MOTOR", "LANGUAGE", "SOCIAL", "RELATIONAL", "EMOTION")
RUNS = [*REST, *(f"tfMRI_{t}_{d}" for t in TASKS for d in ("LR", "RL"))]
CONDITIONS = 6


def header() -> bytes:
    head = nib.Nifti1Header()
    head.set_data_shape((91, 109, 91, 1200))
    head.set_sform(np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]), 4)
    head.set_zooms((2, 2, 2, 0.72))
    head.set_xyzt_units("mm", "sec")
    noise = np.random.default_rng(0).bytes(4096)  # as large as no pointer of git-annex is
    return gzip.compress(head.binaryblock + bytes(4) + noise, 1)


def simulate(root: Path, n_runs: int) -> tuple[int, int]:
    volume, subjects, written = header(), [], 0
    while written < n_runs:
        subject = f"{100_000 + len(subjects)}"
        subjects.append(subject)
        for name in RUNS[: n_runs - written]:
            folder = root / subject / "MNINonLinear" / "Results" / name
            folder.mkdir(parents=True)
            suffix = "_hp2000_clean" if name in REST else ""
            (folder / f"{name}{suffix}.nii.gz").write_bytes(volume)
            (folder / "Movement_RelativeRMS_mean.txt").write_text("0.08\n")
            if name not in REST:
                (folder / "EVs").mkdir()
                for i in range(CONDITIONS):
                    text = "".join(f"{8 + 30 * k + i}\t12.5\t1\n" for k in range(5))
                    (folder / "EVs" / f"condition{i}.txt").write_text(text)
            written += 1
    rows = [f"{s},{'F' if i % 2 else 'M'},26-30" for i, s in enumerate(subjects)]
    (root / "unrestricted_1.csv").write_text("\n".join(["Subject,Gender,Age", *rows]) + "\n")
    rows = [f"{s},{22 + i % 15},F{i // 2}" for i, s in enumerate(subjects)]
    text = "\n".join(["Subject,Age_in_Yrs,Family_ID", *rows]) + "\n"
    (root / "RESTRICTED_1.csv").write_text(text)
    return written, len(subjects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40_000)
    parser.add_argument("--folder", help="where to make the tree; default: the system's")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="catalog-", dir=options.folder))
    try:
        runs, subjects = simulate(root, options.runs)
        # in a process of its own, so that the memory is the catalogue's
        if child := os.fork():
            _, status, usage = os.wait4(child, 0)
            print(f"peak memory {usage.ru_maxrss / 1024:.0f} MB, exit {status}")
            return
        from fmritok.pipeline.datasets import get_adapter

        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        cohort = get_adapter("hcp")(root)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        assert len(cohort.runs) == runs
        assert (cohort.runs["problem"] == "").all()
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"catalogued {runs} runs of {subjects} subjects, {len(cohort.events)} events: "
            f"{seconds:.1f} s ({cpu:.1f} s of processor), {runs / seconds:.0f} runs/s",
            flush=True,
        )
        os._exit(0)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
