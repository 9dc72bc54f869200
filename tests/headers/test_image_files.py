"""The page on files says what fmritok says: every row is made as a file and compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cohorts import write_header
from images import (
    AFFINE,
    MIRROR,
    SHAPE,
    bids_path,
    change,
    grayordinates,
    moved,
    replaced,
    series,
    with_both,
    write_image,
    write_pair,
)

from fmritok.errors import RunError
from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.opening import RunFiles, files_of_row, open_run
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.tokenizers.vae.intensity import fit_intensity

NAN = float("nan")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "files.md"


def image(values=None, *, extension=".nii.gz", **options) -> Callable[[Path], object]:
    return lambda root: write_image(bids_path(root, extension=extension), values, **options)


def pair(sform, qform, codes) -> Callable[[Path], object]:
    def make(root):
        bids_path(root).parent.mkdir(parents=True)
        with_both(bids_path(root), sform, qform, codes)

    return make


def renamed(of: str, to: str) -> Callable[[Path], object]:
    def make(root):
        write_image(bids_path(root, extension=of)).rename(bids_path(root, extension=to))

    return make


def edited(edit, *, extension=".nii.gz", packed=False) -> Callable[[Path], object]:
    """Change the bytes of a whole file, unpacked or as they are stored."""

    def make(root):
        path = write_image(bids_path(root, extension=extension))
        if packed:
            path.write_bytes(edit(path.read_bytes()))
        else:
            change(path, edit)

    return make


def masked(values, **options) -> Callable[[Path], object]:
    def make(root):
        path = write_image(bids_path(root))
        write_image(path.with_name(path.name.replace("preproc_bold", "brain_mask")), values,
                    **options)  # fmt: skip

    return make


def warped(field, **options) -> Callable[[Path], RunFiles]:
    def make(root):
        run = write_image(root / "run.nii.gz")
        return RunFiles(run, warp=write_image(root / "warp.nii.gz", field, **options))

    return make


def spoiled(spoil, dtype=np.float32) -> Callable[[Path], object]:
    def make(root):
        values = series(6)
        spoil(values)
        write_image(bids_path(root), values.astype(dtype))

    return make


def timed(fields, tr=2.0, *, onsets=()) -> Callable[[Path], object]:
    def make(root):
        path = write_image(bids_path(root), tr=tr)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(fields))
        if onsets:
            rows = "".join(f"{onset}\t1\n" for onset in onsets)
            (path.parent / "sub-01_task-rest_events.tsv").write_text(f"onset\tduration\n{rows}")

    return make


def hcp(tr) -> Callable[[Path], object]:
    name = "rfMRI_REST1_LR"
    folder = f"100206/MNINonLinear/Results/{name}/{name}.nii.gz"
    return lambda root: write_header(root / folder, tr=tr)


def site(root):
    write_header(root / "NYU" / "snwmrda0010002_session_1_rest_1.nii.gz", tr=1.0)


def lone(root):
    for sub, tr in (("01", 2.0), ("02", 2.0), ("03", 3.0)):
        write_image(bids_path(root, sub), tr=tr)


def cifti(**options) -> Callable[[Path], object]:
    name = "sub-01_task-rest_space-fsLR_den-91k_bold"

    def make(root):
        path = grayordinates(root / "sub-01" / "func" / f"{name}.dtseries.nii", **options)
        path.with_name(f"{name}.json").write_text('{"RepetitionTime": 2.0}')

    return make


def still_hemisphere(root):
    values = 100 + np.random.default_rng(0).standard_normal((6, 642))
    write_pair(root, values * 0, values)


def clipped(values):
    values[:, :, :8] = 40_000
    np.clip(values, -32768, 32767, out=values)


def remove_mean(values):
    values -= values.mean(axis=-1, keepdims=True)


def hertz(root):
    timed({"RepetitionTime": 2})(root)
    image(xyzt_units=2 + 32)(root)


def dangling(root):
    bids_path(root).parent.mkdir(parents=True)
    bids_path(root).symlink_to(root / "annex")


EMPTY = np.zeros(SHAPE, np.uint8)
OBLIQUE = AFFINE @ nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0, 0))
SPARSE = sorted(6.0 * k + j for k in range(2) for j in (0, 1))
#: How to make the file of each row, in the order of the page.
CASES: list[Callable[[Path], object]] = [
    # where voxels lie
    image(codes=(0, 0)),
    image(sform_code=77),
    image(codes=(4, 0), srow_x=(NAN, 0, 0, 0)),
    image(codes=(4, 0), srow_x=(0, 10, 0, 0)),
    image(codes=(0, 4), quatern=(0.7, 0.7, 0.2)),
    image(codes=(0, 4), pixdim0=3.0),
    pair(AFFINE, MIRROR @ AFFINE, (4, 1)),
    pair(AFFINE, moved(7), (4, 4)),
    pair(AFFINE, moved(7), (4, 1)),
    image(quatern=(0.7, 0.7, 0.2)),
    image(codes=(4, 0), pixdim=(3.0, 10.0, 10.0)),
    image(codes=(3, 3)),
    image(affine=np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE, xyzt_units=9),
    image(xyzt_units=15),
    image(xyzt_units=9),
    image(np.zeros((100, 18, 15, 2), np.int16)),
    image(affine=OBLIQUE),
    image(affine=moved(60)),
    masked(EMPTY + 1, affine=moved(10)),
    masked(EMPTY),
    masked(np.full(SHAPE, NAN, np.float32)),
    warped(np.full((*SHAPE, 3), 900, np.float32), intent_code=2006),
    warped(np.zeros((*SHAPE, 3), np.float32), intent_code=2007),
    # headers and files
    edited(lambda content: bytes(len(content))),
    renamed(".nii.gz", ".nii"),
    renamed(".nii", ".nii.gz"),
    image(magic=b"ni1\0"),
    image(magic=b"\0\0\0\0"),
    image(intent_code=3002),
    image(dim=(9, *SHAPE, 4, 1, 1, 1)),
    image(series()[..., 0]),
    image(series(1)),
    image(vox_offset=NAN),
    image(scl_slope=2.0, scl_inter=NAN),
    image(scl_slope=float("inf")),
    image(scl_slope=-1.0, scl_inter=0.0),
    image(datatype=32, bitpix=64),
    image(datatype=128, bitpix=24),
    image(bitpix=7),
    edited(lambda content: content[:-5], extension=".nii"),
    edited(lambda content: content[:-5000], packed=True),
    edited(lambda content: replaced(content, dim=(4, *SHAPE, 2, 1, 1, 1))),
    edited(lambda content: content + b"padding", packed=True),
    dangling,
    # when frames were taken
    image(tr=0.0),
    image(tr=2000.0),
    timed({"RepetitionTime": 2000}),
    timed({"RepetitionTime": 2000}, tr=0.0),
    timed({"RepetitionTime": 2.2}),
    hcp(1.0),
    site,
    hcp(2.0),
    lone,
    timed({"VolumeTiming": SPARSE}),
    timed({"VolumeTiming": [0, 2, 4]}),
    timed({"VolumeTiming": [0, 2, 4, 6], "RepetitionTime": 2.5}, tr=2.5),
    timed({"VolumeTiming": [1, 3, 5, 7]}),
    timed({"VolumeTiming": "none"}),
    timed({"RepetitionTime": "two"}),
    timed({"RepetitionTimePreparation": 4}),
    timed({"RepetitionTime": 2, "DelayTime": 3}),
    timed({"RepetitionTime": 2, "SliceTiming": [0, 900]}),
    timed({"RepetitionTime": 2, "StartTime": 0.5}, onsets=(1,)),
    timed({"RepetitionTime": 2, "StartTime": 5}, onsets=(1,)),
    timed({"RepetitionTime": 2, "SliceTimingCorrected": True}, onsets=(1,)),
    timed({"RepetitionTime": 2, "NumberOfVolumesDiscardedByUser": 4}, onsets=(1,)),
    timed({"RepetitionTime": 2}, onsets=(1, 9)),
    image(toffset=3.0),
    hertz,
    image(xyzt_units=2 + 56),
    cifti(unit="HERTZ"),
    cifti(start=3.0),
    # what values are
    spoiled(lambda v: v.__setitem__(np.s_[5, 5, 5:8, 3], NAN)),
    spoiled(lambda v: v.__setitem__(np.s_[5, 5, 5, 3], np.inf)),
    spoiled(lambda v: v.__setitem__(np.s_[..., 3], 0)),
    spoiled(lambda v: v.__setitem__(..., v[..., :1])),
    still_hemisphere,
    image(series().astype(np.float64) * 1e37),
    spoiled(clipped, np.int16),
    spoiled(remove_mean),
]


def rows() -> list[tuple[str, str]]:
    """Return outcome and sentence of every row about images."""
    text = PAGE.read_text().partition("## Images\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| .* \| (.*) \| `(.*)` \|$", text, re.MULTILINE)
    tables = text.count("|---|---|")
    assert len(found) == sum(line.startswith("| ") for line in text.splitlines()) - tables
    return found


def outcome(root: Path, files: object) -> list[tuple[str, str]]:
    """Return what is said of a cohort: outcomes and sentences."""
    if not isinstance(files, RunFiles):
        names = {p.name for p in root.iterdir()}
        dataset = "hcp" if "100206" in names else "adhd200" if "NYU" in names else "bids"
        surface = any(root.rglob("*.gii")) or any(root.rglob("*.dtseries.nii"))
        cohort = get_adapter(dataset)(root, input="surface" if surface else "volume")
        said = [("refused", problem) for problem in cohort.runs["problem"] if problem]
        said += [("questioned", reason) for reason in cohort.questioned["reason"]]
        if said:
            return said
        run = cohort.runs.iloc[0]
        files = files_of_row(run)
    try:
        source = open_run(files)
        for _ in checked_blocks(source, str(files.path)):
            pass
        if source.space.is_volume:
            with RunVolumes.read(files.path) as volumes:
                fit_intensity("max", volumes.statistics)
    except RunError as error:
        return [("refused by tokenize", str(error))]
    return []


def test_every_row_of_the_page_has_its_file():
    assert len(rows()) == len(CASES)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_page_says_what_fmritok_says(tmp_path, number):
    wanted, sentence = rows()[number]
    said = outcome(tmp_path, CASES[number](tmp_path))
    pattern = re.escape(sentence).replace("…", ".*")
    fitting = [kind for kind, text in said if re.search(pattern, text)]
    assert fitting == [wanted.replace("repaired", "questioned")], (sentence, said)


def test_a_good_file_is_used_without_a_word(tmp_path):
    assert outcome(tmp_path, image()(tmp_path)) == []
