"""The report opens in a real browser, without a network and without an error of the console."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from people import a_task, write_scores
from stores import write_two_groups
from tiny import fmritok

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)


def browse(page: Path, profile: Path, *more: str) -> tuple[str, str]:
    """Open a page without a network; return what is printed, and the lines of the console."""
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--user-data-dir={profile}", "--enable-logging=stderr", "--window-size=1100,1400",
         "--virtual-time-budget=2000", *more, page.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")
def test_the_report_opens_in_a_browser(tmp_path):
    store = write_two_groups(tmp_path / "tokens.zarr")
    write_scores(tmp_path / "scores", a_task(), dummy=True)
    page = tmp_path / "report.html"
    made = fmritok("report", "--store", store, "--scores", tmp_path / "scores", "--out", page)
    assert made.exit_code == 0, made.output
    shot = tmp_path / "shot.png"
    _, console = browse(page, tmp_path / "profile", f"--screenshot={shot}")
    # its policy forbids all loading, so an attempt would be an error of the console
    assert console == ""
    import matplotlib.image

    pixels = matplotlib.image.imread(shot)
    assert pixels.shape[:2] == (1400, 1100)
    assert pixels[..., :3].std() > 0.05  # not blank

    # the test sees a page that loads something or fails
    bad = tmp_path / "bad.html"
    text = page.read_text()
    bad.write_text(text.replace("</body>", '<img src="https://example.org/x.png" alt="x"></body>'))
    _, console = browse(bad, tmp_path / "profile")
    assert "example.org" in console
