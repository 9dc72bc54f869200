"""Tasks that come with fmritok, one YAML each."""
