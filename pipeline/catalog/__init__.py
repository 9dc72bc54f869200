"""The catalogue of a cohort: runs, phenotypes and events, and what was left out and why."""
