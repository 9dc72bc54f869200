"""``network``: mean time courses of atlas parcels."""
