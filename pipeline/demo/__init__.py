"""Simulated cohort with known ground truth: the embedded default of fmritok."""
