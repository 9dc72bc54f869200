"""The demo cohort: the files are as an HCP user expects, and what is said to be in them is."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from simulated import NONE, REST, response

from fmritok.errors import FmritokError
from fmritok.pipeline.commands.demo_data import demo_data
from fmritok.pipeline.demo.anatomy import AFFINE, GRID, load_anatomy
from fmritok.pipeline.demo.cohort import DemoConfig, run_path, write_demo_cohort
from fmritok.pipeline.demo.config import is_rest, task_of

MOTOR = "tfMRI_MOTOR_LR"
#: As short as a block of each hand allows.
STRONG = dataclasses.replace(NONE, subjects=1, task_effect=3.0, minutes=0.75, runs=(MOTOR,))
FRAMES = 62
WEAK = dataclasses.replace(NONE, minutes=0.15, runs=(REST,))
SHORT = DemoConfig(subjects=1, minutes=0.1, runs=(REST,))


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a task with a strong effect, of one subject."""
    out = tmp_path_factory.mktemp("demo") / "strong"
    write_demo_cohort(out, STRONG)
    return out


@pytest.fixture(scope="module")
def none(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a short rest without effects, of two subjects."""
    out = tmp_path_factory.mktemp("demo") / "none"
    write_demo_cohort(out, WEAK)
    return out


def truth(out: Path) -> dict:
    return json.loads((out / "simulated_ground_truth.json").read_text())


def table(out: Path, name: str) -> list[dict[str, str]]:
    with (out / name).open(newline="") as file:
        return list(csv.DictReader(file))


def true_courses(out: Path, subject: str, run: str) -> np.ndarray:
    path = run_path(out, subject, run).parent / "simulated_networks.tsv"
    return np.loadtxt(path, skiprows=1, delimiter="\t")


@functools.cache
def measured_courses(out: Path, subject: str, run: str) -> np.ndarray:
    """Extract the mean course of each network's regions, in percent, as any user would."""
    image = nib.load(run_path(out, subject, run))
    data = np.asanyarray(image.dataobj)
    networks = truth(out)["networks"]
    sums = np.zeros((data.shape[3], len(networks)))
    counts = np.zeros(len(networks))
    for region in truth(out)["regions"]:
        ijk = np.rint(np.linalg.solve(image.affine, [*region["xyz_mm"], 1])[:3]).astype(int)
        box = data[tuple(slice(max(c - 1, 0), c + 2) for c in ijk)].reshape(-1, data.shape[3])
        box = box[box.mean(axis=1) > 0].astype(float)
        if len(box):
            network = networks.index(region["network"])
            sums[:, network] += (100 * (box / box.mean(axis=1, keepdims=True) - 1)).mean(axis=0)
            counts[network] += 1
    return sums / counts


# --- the files -----------------------------------------------------------------------------------


def test_volume_is_as_in_the_hcp(strong: Path, none: Path) -> None:
    path = none / "900001/MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR_hp2000_clean.nii.gz"
    image = nib.load(path)
    assert image.shape == (*GRID, WEAK.frames) == (91, 109, 91, 12)
    motor = nib.load(strong / "900001/MNINonLinear/Results/tfMRI_MOTOR_LR/tfMRI_MOTOR_LR.nii.gz")
    assert motor.shape == (*GRID, FRAMES)
    assert STRONG.frames == FRAMES
    np.testing.assert_array_equal(image.affine, AFFINE)
    np.testing.assert_array_equal(image.header.get_qform(), AFFINE)
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    assert image.header.get_zooms()[3] == pytest.approx(0.72)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert image.get_data_dtype() == np.int16
    assert image.dataobj.slope == 4.0
    assert image.dataobj.inter == 0.0
    assert image.header["descrip"].item() == b"fmritok simulated"
    assert path.read_bytes()[4:8] == b"\0\0\0\0"  # no time in the gzip header


def test_intensities_are_realistic(none: Path) -> None:
    anatomy = load_anatomy()
    data = np.asanyarray(nib.load(run_path(none, "900001", REST)).dataobj)
    mean, deviation = data.mean(axis=3), data.std(axis=3)
    inside = mean > 0
    assert not data[~inside].any()
    assert 210_000 < inside.sum() < 260_000
    assert np.median(mean[inside]) == pytest.approx(10_000, rel=0.02)
    grey = inside & (anatomy.grey > 0.7)
    assert 30 < np.median(mean[grey] / deviation[grey]) < 100
    another = np.asanyarray(nib.load(run_path(none, "900002", REST)).dataobj[..., 0])
    both = inside & (another > 0)
    alike = np.corrcoef(mean[both], another[both])[0, 1]
    assert 0.6 < alike < 0.99  # brains differ, and are brains


def test_tree_beside_the_volumes(strong: Path, none: Path) -> None:
    task = strong / "900001" / "MNINonLinear" / "Results" / MOTOR
    events = np.loadtxt(task / "EVs" / "rh.txt", ndmin=2)
    np.testing.assert_allclose(events, [[8, 12, 1]])
    for subject in ("900001", "900002"):
        rest = none / subject / "MNINonLinear" / "Results" / REST
        assert not (rest / "EVs").exists()
        motion = np.loadtxt(rest / "Movement_RelativeRMS.txt")
        assert motion.shape == (WEAK.frames,)
        average = np.loadtxt(rest / "Movement_RelativeRMS_mean.txt")
        assert float(average) == pytest.approx(motion.mean(), abs=1e-5)
        assert true_courses(none, subject, REST).shape == (WEAK.frames, 13)
    assert not [*strong.rglob("*.part"), *none.rglob("*.part")]


def test_everything_says_that_it_is_simulated(strong: Path) -> None:
    marker = json.loads((strong / "SIMULATED.json").read_text())
    assert marker["simulated"] is True
    assert marker["complete"] is True
    assert marker["config"] == STRONG.to_dict()
    assert marker["by"].startswith("fmritok ")
    assert (strong / "README.txt").read_text().startswith("SIMULATED DATA")
    for name in ("unrestricted_demo.csv", "RESTRICTED_demo.csv"):
        assert {row["Release"] for row in table(strong, name)} == {"SIMULATED"}


def test_phenotypes(none: Path) -> None:
    open_rows, closed_rows = (
        table(none, name) for name in ("unrestricted_demo.csv", "RESTRICTED_demo.csv")
    )
    assert list(open_rows[0])[:5] == ["Subject", "Release", "Acquisition", "Gender", "Age"]
    assert {"PMAT24_A_CR", "CogTotalComp_AgeAdj"} <= set(open_rows[0])
    assert {"Age_in_Yrs", "HasGT", "ZygositySR", "Family_ID", "Mother_ID", "Father_ID"} <= set(
        closed_rows[0]
    )
    assert [row["Subject"] for row in open_rows] == ["900001", "900002"]
    assert {row["Gender"] for row in open_rows} == {"M", "F"}
    for row, closed in zip(open_rows, closed_rows, strict=True):
        first = int(row["Age"][:2])
        assert first <= int(closed["Age_in_Yrs"]) <= first + 4
        assert truth(none)["subjects"][row["Subject"]]["sex"] == row["Gender"]
    assert closed_rows[0]["Family_ID"] == closed_rows[1]["Family_ID"]


# --- determinism, resuming, refusing -------------------------------------------------------------


def test_same_seed_same_bytes_at_any_number_of_subjects(tmp_path: Path) -> None:
    write_demo_cohort(tmp_path / "two", dataclasses.replace(SHORT, subjects=2))
    write_demo_cohort(tmp_path / "grown", SHORT)
    first = run_path(tmp_path / "grown", "900001", REST)
    before = first.stat().st_mtime_ns
    write_demo_cohort(tmp_path / "grown", dataclasses.replace(SHORT, subjects=2))
    assert first.stat().st_mtime_ns == before
    files = sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*.*"))
    assert len(files) > 8
    for file in files:
        if (tmp_path / "two" / file).is_file():
            assert (tmp_path / "two" / file).read_bytes() == (
                tmp_path / "grown" / file
            ).read_bytes(), file
    write_demo_cohort(tmp_path / "other", dataclasses.replace(SHORT, seed=1))
    assert run_path(tmp_path / "other", "900001", REST).read_bytes() != first.read_bytes()


def test_interrupted_cohort_is_finished_by_the_same_call(tmp_path: Path) -> None:
    config = dataclasses.replace(SHORT, runs=(REST, "tfMRI_WM_RL"))

    def stop(done: int, total: int) -> None:
        assert total == 2
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo_cohort(tmp_path, config, stop)
    assert json.loads((tmp_path / "SIMULATED.json").read_text())["complete"] is False
    left = run_path(tmp_path, "900001", REST)
    before = left.stat().st_mtime_ns
    calls: list[int] = []
    write_demo_cohort(tmp_path, config, lambda done, _: calls.append(done))
    assert calls == [0, 1, 2]
    assert left.stat().st_mtime_ns == before
    assert run_path(tmp_path, "900001", "tfMRI_WM_RL").exists()
    assert json.loads((tmp_path / "SIMULATED.json").read_text())["complete"] is True
    with pytest.raises(FmritokError, match=r"expected noise_percent=1.1 .*got noise_percent=1.2"):
        write_demo_cohort(tmp_path, dataclasses.replace(config, noise_percent=1.2))


def test_failure_within_a_run_leaves_no_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fmritok.pipeline.demo.volume.os.replace", full)
    with pytest.raises(FmritokError, match="No space left on device.*finished runs are kept"):
        write_demo_cohort(tmp_path / "out", SHORT)
    assert not list((tmp_path / "out").rglob("*.nii.gz*"))


def test_folder_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "100206").mkdir()
    with pytest.raises(FmritokError, match="expected an empty folder.*got 100206"):
        write_demo_cohort(tmp_path, SHORT)
    assert [p.name for p in tmp_path.iterdir()] == ["100206"]


def test_file_and_damaged_marker_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FmritokError, match="expected a folder or a new path, got a file"):
        write_demo_cohort(tmp_path / "file", SHORT)
    with pytest.raises(FmritokError, match="expected a writable folder with enough space"):
        write_demo_cohort(tmp_path / "file" / "below", SHORT)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "SIMULATED.json").write_text("{")
    with pytest.raises(FmritokError, match=r"File .*SIMULATED.json"):
        write_demo_cohort(tmp_path / "out", SHORT)


@pytest.mark.parametrize(
    "options",
    [
        {"subjects": 0},
        {"subjects": 2.0},
        {"seed": -1},
        {"tr": 0.0},
        {"minutes": 0.01},
        {"minutes": float("nan")},
        {"fingerprint": -0.1},
        {"sex_effect": "big"},
        {"runs": ()},
        {"runs": (REST, REST)},
        {"runs": ("rest",)},
        {"runs": ("tfMRI_CHESS_LR",)},
    ],
)
def test_wrong_options(options: dict) -> None:
    with pytest.raises(FmritokError, match="expected .*, got .*"):
        DemoConfig(**options)


def test_run_names() -> None:
    assert is_rest(REST)
    assert task_of(REST) is None
    assert task_of(MOTOR) == "MOTOR"


# --- the ground truth is in the files ------------------------------------------------------------


def test_network_courses_can_be_recovered(strong: Path) -> None:
    networks = truth(strong)["networks"]
    large = [networks.index(n) for n in ("Visual", "DefaultMode", "SomatomotorDorsal")]
    told = true_courses(strong, "900001", MOTOR)
    found = measured_courses(strong, "900001", MOTOR)
    for network in large:
        assert np.corrcoef(told[:, network], found[:, network])[0, 1] > 0.7


def test_hand_blocks_drive_the_motor_network_in_the_files(strong: Path) -> None:
    network = truth(strong)["networks"].index("SomatomotorDorsal")
    folder = run_path(strong, "900001", MOTOR).parent / "EVs"
    hands = [np.loadtxt(folder / f"{hand}.txt", ndmin=2)[:, :2] for hand in ("rh", "lh")]
    model = response(np.concatenate(hands), FRAMES)
    found = measured_courses(strong, "900001", MOTOR)[:, network]
    assert np.corrcoef(model, found)[0, 1] > 0.6


# --- the command ---------------------------------------------------------------------------------


def test_command(tmp_path: Path) -> None:
    options = ["--subjects", "1", "--minutes", "0.1", "--run", REST, "--sex-effect", "0"]
    result = CliRunner().invoke(demo_data, [str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    marker = json.loads((tmp_path / "out" / "SIMULATED.json").read_text())
    assert marker["config"]["sex_effect"] == 0
    assert marker["config"]["runs"] == [REST]
    assert run_path(tmp_path / "out", "900001", REST).exists()


def test_command_defaults_are_those_of_the_config() -> None:
    defaults = {
        p.name: p.default for p in demo_data.params if p.name not in ("out", "quiet", "verbose")
    }
    fields = {f.name: f.default for f in dataclasses.fields(DemoConfig)}
    assert defaults == fields


def test_command_with_wrong_option_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo_data, [str(tmp_path / "out"), "--subjects", "0"])
    assert result.exit_code == 2
    assert "expected an integer from 1" in result.output
    assert not (tmp_path / "out").exists()


def test_command_module_imports_only_click() -> None:
    code = (
        "import sys, fmritok.pipeline.commands.demo_data\n"
        "print([m for m in ('numpy', 'nibabel', 'scipy', 'nilearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
