"""What is hidden in the demo cohort, in the courses themselves, where long runs are cheap."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from simulated import NONE, REST, coupling, one_subject, response

from fmritok.pipeline.demo.anatomy import load_anatomy, smooth_fields, subject_anatomy
from fmritok.pipeline.demo.config import DemoConfig
from fmritok.pipeline.demo.population import (
    AGE_NETWORK,
    SEX_PAIR,
    TRAIT_PAIR,
    amplitudes,
    correlations,
    draw_subject,
)
from fmritok.pipeline.demo.signals import simulate_signals
from fmritok.pipeline.demo.tasks import TASKS, schedule


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_difference_between_the_sexes_is_the_option(effect: float) -> None:
    anatomy = load_anatomy()
    config = dataclasses.replace(NONE, subjects=12, minutes=8.0, sex_effect=effect)
    found: dict[str, list[float]] = {"M": [], "F": []}
    for index in range(config.subjects):
        subject = one_subject(config, index)
        courses = simulate_signals(config, subject, REST, anatomy).networks
        found[subject.sex].append(coupling(courses, list(anatomy.networks), SEX_PAIR))
    assert len(found["M"]) == len(found["F"]) == 6
    assert np.mean(found["M"]) - np.mean(found["F"]) == pytest.approx(effect, abs=0.2)


def test_without_effects_subjects_of_both_sexes_are_coupled_alike() -> None:
    names = load_anatomy().networks
    first, second = (one_subject(NONE, index) for index in (0, 1))
    assert {first.sex, second.sex} == {"M", "F"}
    np.testing.assert_array_equal(
        correlations(NONE, first, names), correlations(NONE, second, names)
    )


def test_age_scales_the_amplitude_of_its_network() -> None:
    anatomy = load_anatomy()
    network = anatomy.networks.index(AGE_NETWORK)
    aged = dataclasses.replace(NONE, age_effect=1.5)
    for index in range(2):
        subject = one_subject(NONE, index)
        spread = [
            simulate_signals(config, subject, REST, anatomy).networks[:, network].std()
            for config in (aged, NONE)
        ]
        assert spread[0] / spread[1] == pytest.approx(np.exp(1.5 * (subject.age - 29) / 10))


def test_hand_blocks_drive_the_motor_network() -> None:
    """The same random numbers with and without the effect."""
    anatomy = load_anatomy()
    network = anatomy.networks.index("SomatomotorDorsal")
    task = dataclasses.replace(NONE, task_effect=3.0)
    for index in range(2):
        subject = one_subject(NONE, index)
        driven, without = (
            simulate_signals(config, subject, "tfMRI_MOTOR_LR", anatomy) for config in (task, NONE)
        )
        hands = [(e.onset, e.duration) for e in driven.events if e.condition in ("rh", "lh")]
        model = response(np.array(hands), NONE.frames)
        change = (driven.networks - without.networks)[:, network]
        assert np.corrcoef(model, change)[0, 1] > 0.9
        assert change @ model / NONE.frames > 0.8


def test_trait_and_fingerprint_are_stable_between_runs() -> None:
    anatomy = load_anatomy()
    names = anatomy.networks
    config = dataclasses.replace(NONE, trait_effect=0.2)
    one, two = names.index(TRAIT_PAIR[0]), names.index(TRAIT_PAIR[1])
    subjects = [one_subject(config, index) for index in range(20)]
    traits = [s.cognition for s in subjects]
    values = [correlations(config, s, names)[one, two] for s in subjects]
    assert np.corrcoef(traits, values)[0, 1] > 0.95
    own = dataclasses.replace(NONE, fingerprint=0.3, minutes=10.0)
    upper = np.triu_indices(len(names), 1)
    prints = [
        [
            np.corrcoef(simulate_signals(own, s, run, anatomy).networks.T)[upper]
            for run in (REST, "rfMRI_REST2_RL")
        ]
        for s in subjects[:3]
    ]
    alike = np.corrcoef([p[0] for p in prints], [p[1] for p in prints])[:3, 3:]
    assert (alike.argmax(axis=1) == np.arange(3)).all()


def test_siblings_share_part_of_the_trait() -> None:
    config = DemoConfig()
    pairs = [
        [draw_subject(config, 5 * group + place, 2, 2) for place in (0, 1)] for group in range(300)
    ]
    assert all(a.family == b.family for a, b in pairs)
    assert len({s.family for s in (draw_subject(config, i, 2, 2) for i in range(50))}) == 40
    traits = np.array([[s.cognition for s in pair] for pair in pairs])
    assert np.corrcoef(traits.T)[0, 1] == pytest.approx(0.5, abs=0.15)
    assert traits.std() == pytest.approx(1, abs=0.1)


def test_effects_of_any_size_give_correlations() -> None:
    names = load_anatomy().networks
    config = DemoConfig(sex_effect=1.5, trait_effect=1.0, fingerprint=0.5)
    for index in range(8):
        matrix = correlations(config, one_subject(config, index), names)
        np.testing.assert_allclose(np.diag(matrix), 1)
        assert np.linalg.eigvalsh(matrix).min() > 0
    assert amplitudes(NONE, one_subject(NONE), names).tolist() == [1.0] * 13


def test_signals_have_unit_variance_and_memory() -> None:
    anatomy = load_anatomy()
    config = dataclasses.replace(NONE, minutes=10.0, tr=2.0)
    signals = simulate_signals(config, one_subject(config), REST, anatomy)
    assert signals.networks.shape == (300, 13)
    assert signals.networks.std() == pytest.approx(1, abs=0.1)
    lagged = np.corrcoef(signals.networks[1:, 0], signals.networks[:-1, 0])[0, 1]
    assert lagged > 0.6
    assert signals.relative_rms[0] == 0


def test_tasks_drive_networks_that_exist_within_the_run() -> None:
    names = set(load_anatomy().networks)
    for task, conditions in TASKS.items():
        assert {name for c in conditions for name in c.drive} <= names
        events = schedule(task, 180.0)
        assert len(events) >= 4
        assert all(0 <= e.onset and e.onset + e.duration <= 180 for e in events)
        assert schedule(task, 180.0, reverse=True) != events
    assert schedule("MOTOR", 10.0) == []


def test_smooth_fields_and_mean_image() -> None:
    anatomy = load_anatomy()
    fields = smooth_fields(anatomy, np.random.default_rng(0), 64)
    assert fields.shape == (64, len(anatomy.flat))
    assert fields.std() == pytest.approx(1, abs=0.1)
    assert fields.std(axis=0).min() > 0.6
    brain = subject_anatomy(anatomy, np.random.default_rng(0))
    at = np.linalg.norm(anatomy.xyz - [0, 36, -22], axis=1) < 6
    there = brain.mean[at & (brain.mean > 0)]
    assert np.median(there) < 7_500  # signal is lost above the sinus
