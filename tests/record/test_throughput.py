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


def test_the_time_of_steps_in_flight_counts_once_and_a_busy_device_does_not_wait(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 10.0, 10.0, 14.0, 18.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter(["a", "b", "c"])
    meter.next()  # from 0 to 1
    meter.next(lambda: True)  # from 1 on, while "a" is computed
    assert meter.finish(100) == (10.0, 0.1)  # "a", at 10
    meter.next()  # from 10 to 14, with "b" done
    assert meter.finish(100) == (12.5, 0.5)  # "b", at 18
    assert meter.finish(100) == (50.0, 0.0)  # "c", at 20
    assert meter.overall == (20.0, 0.4)
