"""Who the simulated subjects are: phenotypes, families, and what each brain has of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.demo.config import DemoConfig

__all__ = [
    "AGE_NETWORK",
    "SEX_PAIR",
    "TRAIT_PAIR",
    "Subject",
    "amplitudes",
    "correlations",
    "draw_subject",
    "stream",
]

Doubles = npt.NDArray[np.float64]

SEX_PAIR = ("DefaultMode", "SomatomotorDorsal")
TRAIT_PAIR = ("DorsalAttention", "FrontoParietal")
AGE_NETWORK = "Visual"
MEAN_AGE = 29.0
ROI_GAIN_SD = 0.15
HERITABILITY = 0.5
# Correlation of the networks in everybody; pairs that are not named have _OTHER.
_OTHER = 0.05
_BASE: dict[tuple[str, str], float] = {
    ("SomatomotorDorsal", "SomatomotorLateral"): 0.55,
    ("Auditory", "SomatomotorLateral"): 0.4,
    ("Auditory", "SomatomotorDorsal"): 0.3,
    ("DorsalAttention", "Visual"): 0.3,
    ("DefaultMode", "DorsalAttention"): -0.25,
    ("CinguloOpercular", "DefaultMode"): -0.2,
    ("CinguloOpercular", "Salience"): 0.4,
    ("DefaultMode", "MedialTemporalLobe"): 0.35,
    ("DefaultMode", "ParietoMedial"): 0.2,
    ("FrontoParietal", "ParietoMedial"): 0.3,
    ("FrontoParietal", "Salience"): 0.2,
    ("Reward", "Salience"): 0.25,
    ("DefaultMode", "VentralAttention"): 0.15,
    ("CinguloOpercular", "SomatomotorDorsal"): 0.25,
    ("DorsalAttention", "FrontoParietal"): 0.2,
    ("DefaultMode", "SomatomotorDorsal"): 0.0,
}
_AGE_STRATA = ((22, 25), (26, 29), (30, 33), (34, 36))
# One stream of random numbers per purpose: a new use does not change the others.
_SEX, _AGE, _FAMILY, _PERSON = 1, 2, 3, 4


@dataclass(frozen=True)
class Subject:
    """One simulated person.

    Attributes
    ----------
    index : int
        Position in the cohort.
    subject : str
        Six-digit id.
    sex : str
        ``M`` or ``F``.
    age : int
        Years, 22 to 36.
    cognition : float
        The stable trait, standard normal.
    family : int
        Number of the family.
    fingerprint : np.ndarray of shape (n_networks, n_networks), float64
        The subject's own part of the correlations, in units of `DemoConfig.fingerprint`.
    roi_gain : np.ndarray of shape (n_rois,), float64
        The subject's own strength of each region, around 1.
    """

    index: int
    subject: str
    sex: str
    age: int
    cognition: float
    family: int
    fingerprint: Doubles
    roi_gain: Doubles


def stream(config: DemoConfig, purpose: int, *keys: int) -> np.random.Generator:
    """Return the random numbers of one purpose, independent of every other stream."""
    return np.random.default_rng([config.seed, purpose, *keys])


def draw_subject(config: DemoConfig, index: int, n_networks: int, n_rois: int) -> Subject:
    """Draw one subject, from the seed and the subject's index alone.

    Sex is balanced within each pair of consecutive subjects, and age within each four: small
    cohorts are balanced too. The first two of every five subjects are siblings.

    Parameters
    ----------
    config : DemoConfig
    index : int
    n_networks, n_rois : int

    Returns
    -------
    Subject
    """
    first_is_male = stream(config, _SEX, index // 2).integers(2) == 1
    rng = stream(config, _AGE, index // 4)
    order = rng.permutation(len(_AGE_STRATA))
    ages = [int(rng.integers(low, high + 1)) for low, high in _AGE_STRATA]
    group, place = divmod(index, 5)
    family = 4 * group + max(place - 1, 0)
    shared = stream(config, _FAMILY, family).standard_normal()
    rng = stream(config, _PERSON, index)
    own = rng.standard_normal()
    noise = rng.standard_normal((n_networks, n_networks))
    return Subject(
        index=index,
        subject=f"{900_001 + index:06d}",
        sex="M" if first_is_male == (index % 2 == 0) else "F",
        age=ages[int(order[index % 4])],
        cognition=float(np.sqrt(HERITABILITY) * shared + np.sqrt(1 - HERITABILITY) * own),
        family=family,
        fingerprint=np.triu(noise, 1) + np.triu(noise, 1).T,
        roi_gain=np.exp(ROI_GAIN_SD * rng.standard_normal(n_rois)),
    )


def correlations(config: DemoConfig, subject: Subject, networks: tuple[str, ...]) -> Doubles:
    """Return the subject's true correlations between networks at rest.

    Parameters
    ----------
    config : DemoConfig
    subject : Subject
    networks : tuple of str

    Returns
    -------
    np.ndarray of shape (n_networks, n_networks), float64
        Positive definite, with ones on the diagonal. To be so, it may differ a little from the
        sum of the effects.
    """
    size = len(networks)
    target = np.full((size, size), _OTHER)
    for pair, value in _BASE.items():
        _add(target, networks, pair, value - _OTHER)
    target += config.fingerprint * subject.fingerprint
    side = 0.5 if subject.sex == "M" else -0.5
    _add(target, networks, SEX_PAIR, config.sex_effect * side)
    _add(target, networks, TRAIT_PAIR, config.trait_effect * subject.cognition)
    target = np.clip(target, -0.9, 0.9)
    np.fill_diagonal(target, 1.0)
    values, vectors = np.linalg.eigh(target)
    fixed = (vectors * np.maximum(values, 0.05)) @ vectors.T
    scale = np.sqrt(np.diag(fixed))
    return np.asarray(fixed / np.outer(scale, scale))


def amplitudes(config: DemoConfig, subject: Subject, networks: tuple[str, ...]) -> Doubles:
    """Return how strong each network is in the subject, shape (n_networks,), 1 in the mean."""
    result = np.ones(len(networks))
    decades = (subject.age - MEAN_AGE) / 10
    result[networks.index(AGE_NETWORK)] = np.exp(config.age_effect * decades)
    return result


def _add(matrix: Doubles, networks: tuple[str, ...], pair: tuple[str, str], value: float) -> None:
    one, two = networks.index(pair[0]), networks.index(pair[1])
    matrix[one, two] += value
    matrix[two, one] += value
