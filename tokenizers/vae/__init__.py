"""``vae``: latents of a pretrained 2D image autoencoder for the slices of volumes."""
