"""Small autoencoders of random weights: fast, and of the full ones' shapes."""

from __future__ import annotations

from pathlib import Path

import torch


def save_random_autoencoder(folder: Path, kind: str = "AutoencoderDC") -> Path:
    """Save a small autoencoder with random weights; none of it is pretrained."""
    import diffusers

    torch.manual_seed(0)
    if kind == "AutoencoderDC":
        model = diffusers.AutoencoderDC(
            latent_channels=32,
            attention_head_dim=8,
            encoder_block_types=["ResBlock"] * 4 + ["EfficientViTBlock"] * 2,
            decoder_block_types=["ResBlock"] * 4 + ["EfficientViTBlock"] * 2,
            encoder_block_out_channels=[4, 4, 8, 8, 16, 32],
            decoder_block_out_channels=[4, 4, 8, 8, 16, 32],
            encoder_layers_per_block=[0, 1, 1, 1, 1, 1],
            decoder_layers_per_block=[0, 1, 1, 1, 1, 1],
            encoder_qkv_multiscales=[[]] * 6,
            decoder_qkv_multiscales=[[]] * 6,
            downsample_block_type="pixel_unshuffle",
            upsample_block_type="pixel_shuffle",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
        )
    elif kind == "AutoencoderKL":
        model = diffusers.AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[8, 8, 16, 16],
            norm_num_groups=4,
            latent_channels=4,
        )
    else:
        model = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8)
        )
    model.save_pretrained(folder, safe_serialization=True)
    return folder
