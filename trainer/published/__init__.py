"""Weights and settings of published models in fmritok's names."""
