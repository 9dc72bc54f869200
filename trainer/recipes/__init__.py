"""Recipes: one commented YAML file each."""
