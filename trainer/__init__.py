"""Training half of fmritok: from a token store to models and scores."""
