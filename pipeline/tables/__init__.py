"""Text files of a cohort: tables, JSON, numbers, ages and ids of subjects."""
