"""Sources: the samples of runs from NIfTI, CIFTI and GIFTI files, read once and forward."""
