"""The Hugging Face Hub: copies of repositories on this machine, encoders as hub models."""
