"""Commands of the training half, one file each."""
