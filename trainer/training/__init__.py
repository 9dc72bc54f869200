"""The training loop: steps, optimizer, several processes."""
