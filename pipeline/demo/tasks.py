"""Simulated tasks: their blocks, the networks that respond, and event files of the HCP."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TASKS", "Condition", "Event", "ev_text", "schedule"]

FIRST_ONSET_S = 5.0
REST_S = 9.0
CUE_S = 3.0
_CUE_DRIVE = {"Visual": 0.6}


@dataclass(frozen=True)
class Condition:
    """One kind of block.

    Parameters
    ----------
    name : str
        Name of the event file, without ``.txt``.
    duration : float
        Seconds.
    drive : dict of str to float
        Height of the response of each network, in units of `DemoConfig.task_effect`.
    cued : bool
        Whether a cue of 3 s precedes the block. The visual network responds to it.
    """

    name: str
    duration: float
    drive: dict[str, float]
    cued: bool = False


@dataclass(frozen=True)
class Event:
    """One block of one run; onset and duration in seconds, `drive` as in :class:`Condition`."""

    condition: str
    onset: float
    duration: float
    drive: dict[str, float]


_DORSAL = {"SomatomotorDorsal": 1.0}
_LATERAL = {"SomatomotorLateral": 1.0}

TASKS: dict[str, tuple[Condition, ...]] = {
    "MOTOR": (
        Condition("rh", 12.0, _DORSAL, cued=True),
        Condition("lh", 12.0, _DORSAL, cued=True),
        Condition("t", 12.0, _LATERAL, cued=True),
        Condition("rf", 12.0, _DORSAL, cued=True),
        Condition("lf", 12.0, _DORSAL, cued=True),
    ),
    "WM": (
        Condition("2bk_places", 25.0, {"Visual": 1.0, "FrontoParietal": 1.0, "DefaultMode": -0.5}),
        Condition("0bk_places", 25.0, {"Visual": 1.0, "FrontoParietal": 0.3}),
    ),
    "LANGUAGE": (
        Condition("story", 20.0, {"Auditory": 1.0, "DefaultMode": 0.5}),
        Condition("math", 15.0, {"Auditory": 0.7, "FrontoParietal": 1.0}),
    ),
    "EMOTION": (
        Condition("fear", 18.0, {"Visual": 1.0, "MedialTemporalLobe": 1.0, "Salience": 0.5}),
        Condition("neut", 18.0, {"Visual": 1.0}),
    ),
    "GAMBLING": (
        Condition("win", 28.0, {"Visual": 0.7, "Reward": 1.0}),
        Condition("loss", 28.0, {"Visual": 0.7, "Reward": -0.5, "Salience": 0.5}),
    ),
    "SOCIAL": (
        Condition("mental", 20.0, {"Visual": 1.0, "DefaultMode": 0.7}),
        Condition("rnd", 20.0, {"Visual": 1.0}),
    ),
    "RELATIONAL": (
        Condition("relation", 16.0, {"Visual": 0.8, "FrontoParietal": 1.0}),
        Condition("match", 16.0, {"Visual": 0.8, "DorsalAttention": 0.6}),
    ),
}


def schedule(task: str, seconds: float, reverse: bool = False) -> list[Event]:
    """Return the blocks of a task, with 9 s of rest between them.

    Every subject sees the same order, as in the HCP.

    Parameters
    ----------
    task : str
        A key of `TASKS`.
    seconds : float
        Length of the run. Blocks that do not fit are left out.
    reverse : bool
        Take the conditions in reverse order, as the second run of a task does.

    Returns
    -------
    list of Event
        In order of onset, in seconds from the first frame.
    """
    conditions = TASKS[task][::-1] if reverse else TASKS[task]
    events: list[Event] = []
    time, block = FIRST_ONSET_S, 0
    while True:
        condition = conditions[block % len(conditions)]
        start = time + CUE_S if condition.cued else time
        end = start + condition.duration
        if end > seconds:
            return events
        if condition.cued:
            events.append(Event("cue", time, CUE_S, _CUE_DRIVE))
        events.append(Event(condition.name, start, condition.duration, condition.drive))
        time, block = end + REST_S, block + 1


def ev_text(events: list[Event], condition: str) -> str:
    """Return one condition's event file in FSL's three columns: onset, duration, amplitude."""
    lines = [f"{e.onset:.3f}\t{e.duration:.3f}\t1" for e in events if e.condition == condition]
    return "".join(line + "\n" for line in lines)
