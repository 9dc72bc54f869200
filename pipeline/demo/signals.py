"""Time courses of a run: networks, task responses, physiology, drift and head motion."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import signal, stats

from fmritok.pipeline.demo.anatomy import Anatomy
from fmritok.pipeline.demo.config import DemoConfig, is_rest, task_of
from fmritok.pipeline.demo.population import Subject, amplitudes, correlations, stream
from fmritok.pipeline.demo.tasks import Event, schedule

__all__ = ["NUISANCE", "RunSignals", "hrf", "run_key", "simulate_signals"]

Doubles = npt.NDArray[np.float64]

SHARED = 0.7
NEURAL_S = 1.0
HRF_S = 32.0
# Nuisance fields: (name, standard deviation in percent of the mean).
NUISANCE = (
    ("respiration_sin", 0.25),
    ("respiration_cos", 0.25),
    ("pulse_sin", 0.2),
    ("pulse_cos", 0.2),
    ("vascular", 0.3),
    ("arousal", 0.3),
    ("drift_linear", 0.4),
    ("drift_slow", 0.4),
)
_RUN = 10


@dataclass(frozen=True)
class RunSignals:
    """Time courses of one run.

    Attributes
    ----------
    networks : np.ndarray of shape (n_frames, n_networks), float64
        Time course of each network (the ground truth), in standard deviations at rest.
    rois : np.ndarray of shape (n_frames, n_rois), float64
        Time course of each region, as a fraction of the mean intensity.
    nuisance : np.ndarray of shape (n_frames, 8), float64
        Time course of each field of `NUISANCE`, as a fraction of the mean intensity.
    translation : np.ndarray of shape (n_frames, 3), float64
        Residual head motion along the axes of the grid, mm.
    spike : np.ndarray of shape (n_frames,), float64
        Signal loss after a sudden head movement, as a fraction of the mean intensity.
    relative_rms : np.ndarray of shape (n_frames,), float64
        Head motion from frame to frame before correction, mm.
    events : list of Event
        Blocks of the task; empty at rest.
    """

    networks: Doubles
    rois: Doubles
    nuisance: Doubles
    translation: Doubles
    spike: Doubles
    relative_rms: Doubles
    events: list[Event]


def run_key(run: str) -> int:
    """Return the number of a run's name, for :func:`stream`."""
    return zlib.crc32(run.encode())


def hrf(step: float) -> Doubles:
    """Return the canonical haemodynamic response, sampled every `step` seconds for 32 s."""
    time = np.arange(0, HRF_S, step)
    return np.asarray(stats.gamma.pdf(time, 6) - stats.gamma.pdf(time, 16) / 6)


def simulate_signals(
    config: DemoConfig, subject: Subject, run: str, anatomy: Anatomy
) -> RunSignals:
    """Simulate all time courses of one run.

    Parameters
    ----------
    config : DemoConfig
    subject : Subject
    run : str
        HCP run name.
    anatomy : Anatomy
        Networks and their regions.

    Returns
    -------
    RunSignals
    """
    rng = stream(config, _RUN, subject.index, run_key(run))
    names, task = anatomy.networks, task_of(run)
    mixing = np.linalg.cholesky(correlations(config, subject, names))
    networks = _haemodynamic_noise(config, len(names), rng) @ mixing.T
    local = _haemodynamic_noise(config, len(anatomy.roi_network), rng)
    events: list[Event] = []
    if task is not None:
        events = schedule(task, config.frames * config.tr, reverse=run.endswith("_RL"))
        networks += config.task_effect * _responses(config, events, names)
    networks = networks * amplitudes(config, subject, names)
    rois = np.sqrt(SHARED) * networks[:, anatomy.roi_network] + np.sqrt(1 - SHARED) * local
    rois *= subject.roi_gain * (config.network_percent / 100)
    # Resting runs of the HCP are denoised by ICA-FIX; task runs are not.
    left = 0.5 if is_rest(run) else 1.0
    nuisance = left * _nuisance(config, rng)
    translation, spike, relative_rms = _motion(config, rng)
    return RunSignals(
        networks=networks,
        rois=rois,
        nuisance=nuisance,
        translation=0.1 * left * translation,
        spike=left * spike,
        relative_rms=relative_rms,
        events=events,
    )


def _fine_step(tr: float) -> tuple[float, int]:
    """Return a time step of about 0.1 s, and the number of steps per frame."""
    per_frame = max(round(tr / 0.1), 1)
    return tr / per_frame, per_frame


def _haemodynamic_noise(config: DemoConfig, count: int, rng: np.random.Generator) -> Doubles:
    """Draw time courses (n_frames, count) of variance 1: noise convolved with the HRF."""
    step, per_frame = _fine_step(config.tr)
    neural = np.exp(-np.arange(0, 8 * NEURAL_S, step) / NEURAL_S)
    kernel = np.convolve(neural, hrf(step))
    kernel /= np.linalg.norm(kernel)
    length = (config.frames - 1) * per_frame + len(kernel)
    white = rng.standard_normal((length, count))
    return np.asarray(signal.fftconvolve(white, kernel[:, None], mode="valid", axes=0)[::per_frame])


def _responses(config: DemoConfig, events: list[Event], names: tuple[str, ...]) -> Doubles:
    """Return the networks' responses to the blocks, (n_frames, n_networks), about 1 at the peak."""
    step, per_frame = _fine_step(config.tr)
    time = np.arange(config.frames * per_frame) * step
    drive = np.zeros((len(time), len(names)))
    for event in events:
        on = (time >= event.onset) & (time < event.onset + event.duration)
        for name, height in event.drive.items():
            drive[on, names.index(name)] += height
    kernel = hrf(step)
    kernel /= kernel[kernel > 0].sum()
    return np.asarray(signal.fftconvolve(drive, kernel[:, None], axes=0)[: len(time) : per_frame])


def _nuisance(config: DemoConfig, rng: np.random.Generator) -> Doubles:
    """Return time courses of the nuisance fields: breathing, pulse, vascular waves, drift."""
    time = np.arange(config.frames) * config.tr
    columns = []
    for low, high in ((0.22, 0.35), (0.9, 1.3)):
        wander = np.cumsum(rng.standard_normal(config.frames)) * 0.15 * np.sqrt(config.tr)
        phase = 2 * np.pi * (rng.uniform(low, high) * time + rng.uniform()) + wander
        columns += [np.sqrt(2) * np.sin(phase), np.sqrt(2) * np.cos(phase)]
    columns += list(_haemodynamic_noise(config, 2, rng).T)
    columns.append(np.linspace(-1, 1, config.frames) * np.sqrt(3) * rng.standard_normal())
    columns.append(np.sqrt(2) * np.cos(np.pi * (time / time[-1] * 2 + 2 * rng.uniform())))
    return np.stack(columns, axis=1) * np.array([percent / 100 for _, percent in NUISANCE])


def _motion(config: DemoConfig, rng: np.random.Generator) -> tuple[Doubles, Doubles, Doubles]:
    """Return translation (n_frames, 3) and frame-to-frame motion, mm; between them, signal loss.

    The head drifts slowly. About every two minutes it jerks, and returns within a few seconds.
    """
    time = np.arange(config.frames) * config.tr
    walk = np.cumsum(rng.standard_normal((config.frames, 3)), axis=0) * 0.02 * np.sqrt(config.tr)
    spike = np.zeros(config.frames)
    jerks = np.zeros((config.frames, 3))
    for onset in rng.uniform(0, time[-1], rng.poisson(time[-1] / 120)):
        since = time - onset
        shape = np.where(since >= 0, np.exp(-np.maximum(since, 0) / 1.5), 0)
        jerks += shape[:, None] * rng.normal(0, 0.5, 3)
        spike -= shape * rng.uniform(0.005, 0.02)
    translation = config.motion * (walk - walk.mean(axis=0) + jerks)
    moved = np.diff(translation, axis=0, prepend=translation[:1])
    return translation, config.motion * spike, np.sqrt((moved**2).sum(axis=1))
