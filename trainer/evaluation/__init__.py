"""Evaluate a frozen encoder: features, folds, probes and scores."""
