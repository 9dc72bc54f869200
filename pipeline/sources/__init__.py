"""Read the samples of a run: once, forward, whatever kind of file holds them."""
