"""Windows of a token store for training: which, in what order, and reading them."""
