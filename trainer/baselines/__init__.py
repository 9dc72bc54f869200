"""What stands beside every encoder: connectivity, raw tokens, nuisance variables, the mean."""
