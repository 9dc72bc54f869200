"""Time courses of parcels that were computed elsewhere: description, files, reading."""
