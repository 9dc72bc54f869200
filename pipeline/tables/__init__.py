"""Text tables of a cohort: rows, numbers, ages and subjects, read with bounds."""
