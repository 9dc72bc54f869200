"""The folder of a training: checkpoints, metrics, resume."""
