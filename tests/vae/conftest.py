"""Images for differential inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(int(np.random.default_rng().integers(2**31)))  # fresh in every run
    return torch.randn(3, 3, 96, 96) * 0.3, torch.randn(4, 3, 96, 96) * 0.01
