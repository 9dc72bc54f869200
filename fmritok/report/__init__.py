"""The report: one page on a store, its trainings and its scores."""
