"""Headers of runs: shape, affine and repetition time, checked without reading the data."""
