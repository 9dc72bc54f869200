"""A command that is killed at an operation, or whose operation fails: one case after another."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pytest
from children import ChildError
from faults import Outcome, killed_everywhere, with_fault
from places import Place

__all__ = ["Disturbed", "chosen", "judged"]


class Disturbed(Protocol):
    """A command to disturb, and the judgement of what it left."""

    @property
    def arguments(self) -> list[Any]: ...
    @property
    def place(self) -> Place: ...
    @property
    def operations(self) -> list[str]:
        """Return the operations of the undisturbed command."""

    def begin(self) -> None:
        """Bring the place to its state before the command."""

    def after(self, outcome: Outcome | None) -> str:
        """Return what is wrong after the next command; the outcome is None after a kill."""


def chosen(
    at: Disturbed, request: pytest.FixtureRequest, *, sample: int, seed: str, decisive: str = ""
) -> Sequence[int]:
    """Return the numbers of the operations to disturb: a sample, or with --all-cases all.

    Most operations fill or flush files that nobody reads yet. As many again are drawn from those
    that match ``decisive``.
    """
    numbers = range(len(at.operations))
    if request.config.getoption("--all-cases"):
        return numbers
    how_many = request.config.getoption("--cases") or sample
    chance = random.Random(seed)
    drawn = set(chance.sample(numbers, min(how_many, len(numbers))))
    if decisive:
        matching = [i for i in numbers if re.match(decisive, at.operations[i])]
        drawn |= set(chance.sample(matching, min(how_many, len(matching))))
    return sorted(drawn)


def judged(at: Disturbed, mode: Any, numbers: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """Disturb operations; yield number, operation and what is wrong, empty if nothing is."""
    return _killed(at, numbers) if mode == "kill" else _failed(at, mode, numbers)


def _killed(at: Disturbed, numbers: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    at.begin()
    outcome, kept = killed_everywhere(at.arguments, at.place, set(numbers))
    assert sorted(kept) == list(numbers)
    judged: dict[str, str] = {}  # operations that change nothing leave what was left before
    for number, state in kept.items():
        content = at.place.same(state)
        if content not in judged:
            at.place.bring(state)
            judged[content] = at.after(None)
        yield number, outcome.operations[number], judged[content]


def _failed(at: Disturbed, mode: Any, numbers: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    for number in numbers:
        at.begin()
        try:
            outcome = with_fault(at.arguments, at.place, number, mode)
        except ChildError as error:
            yield number, at.operations[number], f"it did not come to an end: {error}"
            continue
        wrong = at.after(outcome)
        if not outcome.struck:
            wrong = wrong or "the operation was not met: they are not the same in every run"
        yield number, at.operations[number], wrong
