"""What an encoder, or a linear head on it, looks at: integrated gradients."""
