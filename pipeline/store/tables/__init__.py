"""Tables of the store: runs, phenotypes and events, replaced as a whole."""
