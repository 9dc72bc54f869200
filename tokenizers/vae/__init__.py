"""``vae``: slices of volumes through a pretrained 2D image autoencoder."""
