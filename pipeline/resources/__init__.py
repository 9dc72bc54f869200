"""Files from elsewhere: templates, atlases and weights."""
