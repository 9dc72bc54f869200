"""The ``zarr.json`` documents of a store: checks, seals and the root."""
