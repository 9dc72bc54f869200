"""Cohorts for tests of tokenizations."""

from __future__ import annotations

import pytest
from cohorts import write_run


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """Return the root of an HCP tree with two runs of four frames."""
    root = tmp_path_factory.mktemp("two") / "hcp"
    for subject in ("100001", "100002"):
        write_run(root, subject, frames=4)
    return root
