"""``network``: parcels of functional networks."""
