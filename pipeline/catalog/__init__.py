"""The catalogue of a cohort: runs, phenotypes, events, and skipped files with reasons."""
