"""Headers of runs: shape, position and timing, checked before a run is read."""
