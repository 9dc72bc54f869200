"""The zarr.json documents of the store: read with checks, sealed by checksums."""
