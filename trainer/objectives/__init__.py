"""Self-supervised objectives: modules that wrap an encoder and turn a batch into a loss."""
