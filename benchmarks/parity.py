"""Write the table of what equals the published code, and of what differs by choice.

    make parity

The tests in tests/parity compare fmritok with figures that the code of the published methods gave
(FMRITOK_TEST_DATA). This command runs them, records every difference that they compare, and writes
docs/parity.md and the short table in README.md. What differs by choice is read from the recipes:
the options in which a recipe differs from its published form.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import pytest
import torch

from fmritok.trainer.recipe import build_config, read_recipe

ROOT = Path(__file__).resolve().parents[1]
#: Recipe and name of each method; its tests are tests/parity/test_RECIPE*.py.
METHODS = {"cortexmae": "CortexMAE", "semantoks": "Brain-Semantoks", "tablet": "TABLeT"}
#: Differences allowed in comparisons of float32 outputs. Others compare float16 or random draws.
EQUAL = 1e-5
INTRODUCTION = """\
`make parity` writes this page. Weights, inputs and outputs are figures that the published code gave
with small random weights. Differences are absolute; outputs are about 1 in size. Where no
difference stands, the test compares whole numbers or messages."""
BEGIN, END = "<!-- parity: make parity -->", "<!-- end of parity -->"


@dataclass
class Recorder:
    """A pytest plug-in: the result of each test, and the differences that it compared."""

    compared: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    names: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    current: str = ""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.current, self.names[item.nodeid] = item.nodeid, sentence(item)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome

    def recording(self, compare: Callable[..., None]) -> Callable[..., None]:
        """Return a function that compares, and records the difference and the tolerance."""
        signature = inspect.signature(compare)

        def recorded(*arguments: Any, **options: Any) -> None:
            compare(*arguments, **options)
            one, other, *_ = (np.asarray(x, np.float64) for x in arguments[:2])
            given = signature.bind(*arguments, **options).arguments
            difference = np.abs(one - other)[np.isfinite(other)]
            allowed = given.get("atol") or 0.0
            self.compared[self.current].append((float(difference.max(initial=0.0)), allowed))

        return recorded


def sentence(item: pytest.Item) -> str:
    """Return the name of a test in words, with its parameters."""
    name, _, parameters = item.name.partition("[")
    words = name.removeprefix("test_").replace("_", " ")
    return f"{words} ({parameters.rstrip(']')})" if parameters else words


def run_tests() -> Recorder:
    """Run the comparisons.

    Raises
    ------
    click.ClickException
        If one fails or is skipped.
    """
    recorder = Recorder()
    comparing = (np.testing, "assert_allclose"), (torch.testing, "assert_close")
    with mock.patch.object(*comparing[0], recorder.recording(np.testing.assert_allclose)):
        with mock.patch.object(*comparing[1], recorder.recording(torch.testing.assert_close)):
            code = pytest.main(["-q", str(ROOT / "tests" / "parity")], plugins=[recorder])
    wrong = [name for name, outcome in recorder.outcomes.items() if outcome != "passed"]
    if "skipped" in recorder.outcomes.values():
        raise click.ClickException(
            "Figures of the published code: expected a folder parity under FMRITOK_TEST_DATA, "
            f"got {len(wrong)} comparisons that did not run. Set FMRITOK_TEST_DATA."
        )
    if code or wrong:
        raise click.ClickException(f"not all comparisons passed: {', '.join(wrong) or code}")
    return recorder


def of_method(recorder: Recorder, method: str) -> list[str]:
    """Return the tests of a method."""
    return [test for test in recorder.names if Path(test.split("::")[0]).stem.removeprefix("test_")
            .startswith(method)]  # fmt: skip


def equal_outputs(recorder: Recorder, method: str) -> list[float]:
    """Return the differences of float32 outputs."""
    return [difference for test in of_method(recorder, method)
            for difference, allowed in recorder.compared[test] if allowed <= EQUAL]  # fmt: skip


def options_of(recipe: str) -> dict[str, Any]:
    """Return the options of a recipe as ``section.name``."""
    return dict(_flat(asdict(build_config(read_recipe(recipe)))))


def _flat(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def by_choice(recipe: str) -> list[tuple[str, Any, Any]]:
    """Return name, our value and published value of the options that decide model and training."""
    ours, theirs = options_of(recipe), options_of(f"{recipe}-published")
    rhythm = {"validate_every", "checkpoint_every", "log_every", "keep_checkpoints"}
    return [
        (name, ours.get(name), value) for name, value in sorted(theirs.items())
        if ours.get(name) != value and name.split(".")[-1] not in rhythm
    ]  # fmt: skip


def remaining(recipe: str) -> list[str]:
    """Return the deviations that the comments of a published recipe name."""
    text = (ROOT / "trainer" / "recipes" / f"{recipe}-published.yaml").read_text()
    comments = re.findall(r"(?:^ *#.*\n)+", text, flags=re.M)
    joined = [" ".join(line.strip(" #") for line in one.splitlines()) for one in comments]
    return [one.split("Deviation: ", 1)[1] for one in joined if "Deviation: " in one]


def written(value: Any) -> str:
    """Write a value as ``--set`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def summary(recorder: Recorder) -> str:
    """Return the table of the README."""
    rows = ["| method | equal to its own code | deviates by choice | as published |",
            "|---|---|---|---|"]  # fmt: skip
    for recipe, name in METHODS.items():
        differences = equal_outputs(recorder, recipe)
        equal = f"{len(differences)} outputs, largest difference {max(differences, default=0):.1g}"
        chosen = ", ".join(f"`{name}`" for name, *_ in by_choice(recipe))
        rows.append(f"| {name} | {equal} | `{recipe}`: {chosen} | `--recipe {recipe}-published` |")
    return "\n".join(rows)


def details(recorder: Recorder) -> str:
    """Return the page of all comparisons and options."""
    page = ["# What equals the published code", "", INTRODUCTION, ""]
    for recipe, name in METHODS.items():
        page += [f"## {name}", "", "| compared | largest difference | allowed |", "|---|---|---|"]
        for test in of_method(recorder, recipe):
            found = recorder.compared[test]
            worst = max(found, default=None)
            figures = (
                "| |" if worst is None else f"{worst[0]:.1e} | {max(a for _, a in found):.0e} |"
            )
            page.append(f"| {recorder.names[test]} | {figures}")
        page.append("")
        page += [f"Recipe `{recipe}` differs from `{recipe}-published` in these options. Each can "
                 "be set alone; `trainer/recipes` says why.", "",
                 f"| option | `{recipe}` | as published |", "|---|---|---|"]  # fmt: skip
        page += [f"| `{option}` | `{written(ours)}` | `--set {option}={written(theirs)}` |"
                 for option, ours, theirs in by_choice(recipe)]  # fmt: skip
        page += ["", f"What `{recipe}-published` itself does otherwise:", ""]
        page += [f"- {one}" for one in remaining(recipe)] or ["- nothing that is known"]
        page.append("")
    return "\n".join(page).rstrip() + "\n"


def between(text: str, block: str) -> str:
    """Replace what stands between the two marks.

    Raises
    ------
    click.ClickException
        If there are no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"README.md: expected {BEGIN} and {END}, got none")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


@click.command()
def main() -> None:
    """Run the comparisons and write both tables."""
    recorder = run_tests()
    readme = ROOT / "README.md"
    readme.write_text(between(readme.read_text(), summary(recorder)))
    (ROOT / "docs" / "parity.md").write_text(details(recorder))
    click.echo(summary(recorder), file=sys.stderr)


if __name__ == "__main__":
    main()
