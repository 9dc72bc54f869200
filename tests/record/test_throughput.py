"""Throughput: seconds of a step are divided into work and waiting for data."""

from __future__ import annotations

from fmritok.trainer.record.throughput import Meter


def test_the_meter_tells_waiting_from_working(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 10.0, 11.0, 14.0])  # before, after next; finish
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter(["a", "b"])
    assert meter.next() == "a"
    assert meter.finish(100) == (10.0, 0.9)
    assert meter.next() == "b"
    assert meter.finish(100) == (25.0, 0.25)
    assert meter.overall == (25.0, 0.25)  # the first step started the workers
