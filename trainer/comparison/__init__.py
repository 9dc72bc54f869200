"""One protocol over token groups and objectives: train, score, one table, one figure."""
