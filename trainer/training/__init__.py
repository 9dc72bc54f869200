"""The training loop: batches, steps, optimizer, checkpoints, display."""
