"""Commands of the offline half; each module imports what is heavy only when it runs."""
