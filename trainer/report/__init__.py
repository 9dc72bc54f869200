"""Scores and trainings as the report and the comparison show them."""
