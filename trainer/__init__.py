"""Training half of fmritok: a token store in, models and scores out."""
