"""The Transformer: from stored tokens to outputs."""
