"""Windows of a token store: choice, order, reading, labels, loaders."""
