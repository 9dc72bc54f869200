"""Matrices of NumPy and HDF5 files; what is no matrix, damaged or pickled is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from parcel_series import series

from fmritok.errors import RunError
from fmritok.pipeline.parcels.arrays import (
    dataset_names,
    dataset_sha256,
    dataset_stamp,
    read_dataset,
    read_npy,
    split_hdf5,
)

VALUES = series(20, 4)


@pytest.mark.parametrize("values", [VALUES, np.asfortranarray(VALUES), VALUES.astype(">f4"),
                                    VALUES.astype(np.int16)])  # fmt: skip
def test_arrays_of_numpy(tmp_path, values):
    np.save(tmp_path / "run.npy", values)
    matrix, digest = read_npy(tmp_path / "run.npy")
    np.testing.assert_array_equal(matrix.values, values)
    assert len(digest) == 64
    shape, none = read_npy(tmp_path / "run.npy", values=False)
    assert (shape.n_rows, shape.n_columns, shape.values, none) == (20, 4, None, "")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (VALUES[None], "a matrix of real numbers, got shape .1, 20, 4."),
        (VALUES + 1j, "real numbers, got shape .20, 4., complex128"),
        (np.array([[{}]], object), "real numbers, got shape .1, 1., object"),
    ],
)
def test_what_is_no_matrix_is_refused_and_never_unpickled(tmp_path, values, words):
    np.save(tmp_path / "run.npy", values, allow_pickle=True)
    with pytest.raises(RunError, match=words):
        read_npy(tmp_path / "run.npy")


def test_a_cut_off_array_is_refused(tmp_path):
    np.save(tmp_path / "run.npy", series(500, 4))
    whole = (tmp_path / "run.npy").read_bytes()
    (tmp_path / "run.npy").write_bytes(whole[:-100])
    with pytest.raises(RunError, match="it ends after 15900 of 16000 bytes"):
        read_npy(tmp_path / "run.npy")
    (tmp_path / "run.npy").write_bytes(whole[:400])
    with pytest.raises(RunError, match="16,128|16,000"):
        read_npy(tmp_path / "run.npy", values=False)
    (tmp_path / "run.npy").write_bytes(b"no array")
    with pytest.raises(RunError, match="an array of NumPy"):
        read_npy(tmp_path / "run.npy")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "all.h5"
    with h5py.File(path, "w") as made:
        made["sub-01/rest"] = VALUES
        made["sub-02/rest"] = VALUES * 2
        made["note"] = "text"
    return path


def test_datasets_are_found_by_name(file):
    assert dataset_names(file) == ["sub-01/rest", "sub-02/rest"]
    matrix, digest = read_dataset(file / "sub-02/rest")
    np.testing.assert_array_equal(matrix.values, VALUES * 2)
    assert digest == dataset_sha256(file / "sub-02/rest") != dataset_sha256(file / "sub-01/rest")
    assert dataset_stamp(file / "sub-01/rest") == (VALUES.nbytes, file.stat().st_mtime_ns)
    assert split_hdf5(file / "sub-01/rest") == (file, "sub-01/rest")
    assert split_hdf5(file) == (file, "")


def test_a_file_with_one_dataset_needs_no_name(tmp_path):
    with h5py.File(tmp_path / "one.h5", "w") as made:
        made["deep/inside"] = VALUES
    matrix, _ = read_dataset(tmp_path / "one.h5")
    np.testing.assert_array_equal(matrix.values, VALUES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sub-03/rest", "a dataset 'sub-03/rest', got note, sub-01/rest, sub-02/rest"),
        ("sub-01", "a dataset 'sub-01', got note"),
        ("", "one dataset, got note, sub-01/rest, sub-02/rest. Say in the pattern which"),
        ("note", "a matrix of real numbers, got shape"),
    ],
)
def test_another_dataset_is_refused_with_the_names_that_are_there(file, name, words):
    with pytest.raises(RunError, match=words):
        read_dataset(file / name if name else file)


def test_a_damaged_file_is_refused(file):
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(RunError, match="a whole HDF5 file"):
        read_dataset(file / "sub-01/rest")
