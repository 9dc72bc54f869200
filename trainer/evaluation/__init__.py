"""Evaluate a frozen encoder: features, heads, folds, metrics and scores."""
