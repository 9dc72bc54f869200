"""Offline half of fmritok: cohorts on disk in, one token store out."""
