"""Fine-tuning on a task, and its twin from scratch: folds, weights that are trained, resume."""
