"""Probe frozen encoders on tasks: cached features, heads, embeddings for other tools."""
