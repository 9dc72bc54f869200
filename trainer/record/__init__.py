"""The folder of a training: checkpoints, metrics and everything else that is kept."""
