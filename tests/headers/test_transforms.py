"""Where voxels lie is known, plausible and recorded, or the run is refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from images import AFFINE, MIRROR, SHAPE, bids_path, moved, with_both, write_image

from fmritok.errors import RunError
from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.headers.run_header import read_header, run_header
from fmritok.pipeline.sources.opening import RunFiles, open_run


def outcome(path):
    header = run_header(path)
    return header.problem, header.questions


def test_without_a_code_the_position_of_voxels_is_unknown(tmp_path):
    path = write_image(tmp_path / "r.nii.gz", codes=(0, 0))
    assert "got 0 and 0: the position of its voxels is unknown" in outcome(path)[0]
    with pytest.raises(RunError, match="position of its voxels is unknown"):
        open_run(RunFiles(str(path)))


@pytest.mark.parametrize("codes", [(4, 0), (0, 4), (2, 2), (1, 0), (5, 4)])
def test_any_defined_code_will_do_and_which_transform_is_taken_is_recorded(tmp_path, codes):
    path = write_image(tmp_path / "r.nii.gz", codes=codes)
    assert outcome(path) == ("", ())
    header = read_header(path)
    np.testing.assert_allclose(header.affine, nib.load(path).affine, atol=1e-5)
    assert header.transform.startswith("sform" if codes[0] else "qform")
    assert f"placed by its {header.transform}" in open_run(RunFiles(str(path))).description


def test_runs_of_either_handedness_are_fine(tmp_path):
    affine = MIRROR @ AFFINE
    path = write_image(tmp_path / "r.nii.gz", affine=affine)
    assert outcome(path) == ("", ())
    np.testing.assert_allclose(read_header(path).affine, affine, atol=1e-5)


def test_codes_that_nifti_does_not_define_are_not_used(tmp_path):
    path = write_image(tmp_path / "r.nii.gz", sform_code=77)
    assert outcome(path)[1] == ("the header's sform_code is not defined by NIfTI: its sform is "
                                "not used",)  # fmt: skip
    assert read_header(path).transform == "qform (MNI)"
    path = write_image(tmp_path / "r.nii.gz", sform_code=77, qform_code=-1)
    assert "got 77 and -1" in outcome(path)[0]


def test_talairach_space_is_questioned(tmp_path):
    path = write_image(tmp_path / "r.nii.gz", codes=(3, 3))
    assert "Talairach" in outcome(path)[1][0]


@pytest.mark.parametrize(
    ("mm", "codes", "problem", "question"),
    [
        (0.2, (4, 4), "", ""),
        (2, (4, 4), "", "sform and qform differ"),
        (7, (4, 4), "two that lie 7.0 mm apart", ""),
        (7, (4, 1), "", "sform and qform differ"),
    ],
)
def test_two_transforms_have_to_agree(tmp_path, mm, codes, problem, question):
    path = with_both(tmp_path / "r.nii.gz", AFFINE, moved(mm), codes)
    found = outcome(path)
    assert problem in found[0]
    assert bool(problem) == bool(found[0])
    assert question in " ".join(found[1])
    assert bool(question) == bool(found[1])


@pytest.mark.parametrize("codes", [(4, 4), (4, 1)])
def test_two_transforms_that_mirror_each_other_are_refused(tmp_path, codes):
    path = with_both(tmp_path / "r.nii.gz", AFFINE, MIRROR @ AFFINE, codes)
    assert "one that mirrors the other" in outcome(path)[0]


def test_a_qform_that_is_not_used_may_be_unreadable(tmp_path):
    path = write_image(tmp_path / "r.nii.gz", quatern=(0.7, 0.7, 0.2))
    assert outcome(path) == ("", ("the qform cannot be read: the sform is used",))
    path = write_image(tmp_path / "r.nii.gz", codes=(0, 1), quatern=(0.7, 0.7, 0.2))
    assert "an invalid quaternion in its qform" in outcome(path)[0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"srow_x": (float("nan"), 0, 0, -70)}, "NaN or infinite numbers in its sform"),
        ({"srow_x": (0, 0, 0, -70)}, "linearly dependent axes"),
        ({"srow_x": (0, 10, 0, -70)}, "linearly dependent axes"),
        ({"srow_x": (100, 0, 0, -700)}, "expected voxels of 0.3 to 12 mm, got 100 x 10 x 10"),
        ({"srow_x": (0.01, 0, 0, -70)}, "expected voxels of 0.3 to 12 mm"),
        ({"srow_x": (10, 0, 0, 500)}, "does not hold the MNI brain"),
    ],
)
def test_a_transform_that_cannot_be_one_of_a_brain_is_refused(tmp_path, fields, words):
    assert words in outcome(write_image(tmp_path / "r.nii.gz", codes=(4, 0), **fields))[0]


def test_a_field_of_view_larger_than_any_head_is_refused(tmp_path):
    path = write_image(tmp_path / "r.nii.gz", np.zeros((100, 18, 15, 2), np.int16))
    assert "expected a field of view below 600 mm, got 1000 x 180 x 150 mm" in outcome(path)[0]


def test_pixdim_decides_nothing_where_there_is_an_sform(tmp_path):
    path = write_image(tmp_path / "r.nii.gz", codes=(4, 0), pixdim=(3.0, 10.0, 10.0))
    assert outcome(path) == ("", ("pixdim has other voxel sizes than the sform: the sform is "
                                  "used",))  # fmt: skip
    np.testing.assert_allclose(read_header(path).affine, AFFINE)


def test_which_way_a_qform_turns_has_to_be_told(tmp_path):
    path = write_image(tmp_path / "r.nii.gz", codes=(0, 4), pixdim0=3.0)
    assert "3 as pixdim[0]" in outcome(path)[0]
    path = write_image(tmp_path / "r.nii.gz", codes=(0, 4), pixdim0=0.0)  # 0 is 1
    np.testing.assert_allclose(read_header(path).affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize(("code", "scale", "name"), [(1, 1e-3, "metres"), (3, 1e3, "micrometres")])
def test_other_units_become_mm(tmp_path, code, scale, name):
    path = write_image(tmp_path / "r.nii.gz", affine=np.diag([scale] * 3 + [1]) @ AFFINE,
                       xyzt_units=code + 8)  # fmt: skip
    assert outcome(path) == ("", (f"the header counts in {name}: converted to mm",))
    np.testing.assert_allclose(read_header(path).affine, AFFINE, rtol=1e-5)
    path = write_image(tmp_path / "r.nii.gz", xyzt_units=code + 8)  # mm that are called another
    assert "or its unit (xyzt_units)" in outcome(path)[0]


def test_units_that_are_not_said_are_mm_and_seconds(tmp_path):
    path = write_image(tmp_path / "r.nii.gz", xyzt_units=0)
    assert outcome(path) == ("", ())
    path = write_image(tmp_path / "r.nii.gz", xyzt_units=255)
    assert [q.split(":")[1] for q in outcome(path)[1]] == [" taken for mm", " taken for seconds"]
    assert read_header(path).tr == 2.0


def test_masks_are_checked_like_runs(tmp_path):
    run = write_image(tmp_path / "r.nii.gz")
    inside = np.zeros(SHAPE, np.uint8)
    inside[3:9, 3:9, 3:9] = 1
    good = write_image(tmp_path / "good.nii.gz", inside)
    assert "masked" in open_run(RunFiles(str(run), mask=str(good))).description
    for name, words, options in (
        ("codes", "position of its voxels is unknown", {"codes": (0, 0)}),
        ("flipped", "the grid of the run.*placed by its sform", {"affine": MIRROR @ AFFINE}),
        ("metres", "expected voxels of", {"xyzt_units": 9}),
    ):
        mask = write_image(tmp_path / f"{name}.nii.gz", inside, **options)
        with pytest.raises(RunError, match=words):
            open_run(RunFiles(str(run), mask=str(mask)))
    for name, values, words in (
        ("empty", inside * 0, "voxels in the brain, got nothing but 0"),
        ("nan", np.where(inside, np.nan, 0).astype(np.float32), "216 that are NaN"),
    ):
        mask = write_image(tmp_path / f"{name}.nii.gz", values)
        with pytest.raises(RunError, match=words):
            open_run(RunFiles(str(run), mask=str(mask)))


def test_warps_are_checked_like_runs(tmp_path):
    run = write_image(tmp_path / "r.nii.gz")
    field = np.zeros((*SHAPE, 3), np.float32)
    warp = write_image(tmp_path / "w.nii.gz", field, intent_code=2006)
    assert "by w.nii.gz, placed by its sform (MNI)" in open_run(
        RunFiles(str(run), warp=str(warp))
    ).description  # fmt: skip
    for options, words in (
        ({"codes": (0, 0)}, "position of its voxels is unknown"),
        ({"values": np.full((*SHAPE, 3), np.nan, np.float32)}, "Warp field .* finite values"),
    ):
        write_image(warp, **{"values": field, "intent_code": 2006} | options)
        with pytest.raises(RunError, match=words):
            open_run(RunFiles(str(run), warp=str(warp)))


def test_the_catalogue_says_it_with_the_file(tmp_path):
    write_image(bids_path(tmp_path), codes=(0, 0))
    write_image(bids_path(tmp_path, "02"), codes=(3, 3))
    cohort = get_adapter("bids")(tmp_path)
    assert cohort.runs["problem"].str.contains("voxels is unknown").tolist() == [True, False]
    assert cohort.questioned["path"].tolist() == [str(bids_path(tmp_path, "02"))]
