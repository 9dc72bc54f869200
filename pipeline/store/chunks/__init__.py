"""Arrays of the store: chunks, shards and their files."""
