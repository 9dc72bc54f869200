"""Downstream tasks as data: what is predicted, of which units, on which split."""
