"""Recipes of ``fmritok finetune``, one YAML each."""
