"""Tokenization of a cohort: the plan, the tasks, and their executors."""
