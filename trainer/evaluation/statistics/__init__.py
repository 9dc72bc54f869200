"""Permutation tests, and intervals by bootstrap."""
