from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    PixArtTransformer2DModel,
    UNet2DModel,
)

from c2lst import nn
from c2lst.models import CentralModel

LATENT = 2


def _tokenizer():
    return nn.make_tokenizer(latent_channels=LATENT, channels=(8, 8), patch_px=8, norm_groups=4)


@pytest.fixture(scope="session")
def tiny():
    """A central model of 8 px at 4 um/px with random weights; shared, nobody writes to it."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    nn.set_latent_scale(tokenizer, torch.randn(20, LATENT, 2, 2) * 2 + 1)
    denoiser = nn.make_denoiser(latent_channels=LATENT, latent_px=4, width=16, depth=2, heads=2)
    torch.nn.init.normal_(denoiser.proj_out.weight, std=0.2)
    for block in denoiser.transformer_blocks:  # open the gates, as training does
        torch.nn.init.normal_(block.scale_shift_table, std=0.5)
    card = {"data": "noise", "licence": "CC0-1.0", "seed": 0, "curves": {"loss": [1.0, 0.5]}}
    return CentralModel(tokenizer, denoiser, FlowMatchEulerDiscreteScheduler(), mpp=4.0, patch_px=8, card=card)


@pytest.fixture(scope="session")
def guided(tiny):
    """`tiny` with a guide, a smaller denoiser at random weights."""
    torch.manual_seed(1)
    guide = nn.make_denoiser(latent_channels=LATENT, latent_px=4, width=8, depth=1, heads=2)
    torch.nn.init.normal_(guide.proj_out.weight, std=0.2)
    return dataclasses.replace(tiny, guide=guide, autoguidance=1.5)


@pytest.fixture
def saved(tiny, tmp_path):
    """A directory of `tiny` that a test may spoil."""
    return tiny.save_pretrained(tmp_path / "saved")


def _dit():
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=LATENT, out_channels=2 * LATENT, num_layers=2,
        sample_size=4, patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip


def _pixart():
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=LATENT, out_channels=2 * LATENT, num_layers=2,
        cross_attention_dim=16, sample_size=4, patch_size=2, caption_channels=6, use_additional_conditions=False,
    )  # fmt: skip


def _unet():
    return UNet2DModel(
        sample_size=4, in_channels=LATENT, out_channels=LATENT, layers_per_block=1, block_out_channels=(8, 8),
        norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    )  # fmt: skip


DENOISERS = {"dit": _dit, "pixart": _pixart, "unet": _unet}


@pytest.fixture(params=list(DENOISERS))
def pipeline(request, tmp_path):
    """A directory as diffusers' own pipelines write it, with parts c2lst has no use for; it does not say its scale."""
    torch.manual_seed(0)
    path = tmp_path / "pipeline"
    denoiser = DENOISERS[request.param]()
    folder = "unet" if isinstance(denoiser, UNet2DModel) else "transformer"
    denoiser.save_pretrained(path / folder)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), latent_channels=LATENT, norm_num_groups=4, sample_size=8, scaling_factor=0.5,
    )  # fmt: skip
    vae.save_pretrained(path / "vae")
    DDIMScheduler(num_train_timesteps=50, clip_sample=False).save_pretrained(path / "scheduler")
    index = {
        "_class_name": "SomePipeline",
        "_diffusers_version": "0.35.0",
        "text_encoder": [None, None],
        "requires_safety_checker": False,
        folder: ["diffusers", type(denoiser).__name__],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (path / "model_index.json").write_text(json.dumps(index))
    return path


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """What a test registers is forgotten afterwards."""
    from c2lst.models import _encoders, _registry

    monkeypatch.setattr(_registry, "_REGISTRY", dict(_registry._REGISTRY))
    monkeypatch.setattr(_registry, "_SEEN", dict(_registry._SEEN))
    monkeypatch.setattr(_encoders, "_REGISTRY", dict(_encoders._REGISTRY))


@pytest.fixture(scope="session")
def edit():
    """Return a function that changes a JSON file in place."""

    def change(path, **values):
        spec = json.loads(path.read_text())
        for key, value in values.items():
            if value is KeyError:
                del spec[key]
            else:
                spec[key] = value
        path.write_text(json.dumps(spec))

    return change


@pytest.fixture(scope="session")
def edit_tensors():
    """Return a function that changes a safetensors file in place."""
    from safetensors.torch import load_file, save_file

    def change(path, function):
        tensors = load_file(path)
        function(tensors)
        save_file(tensors, path)

    return change


@pytest.fixture(scope="session")
def truncate():
    """Return a function that cuts a file in the middle."""

    def cut(path):
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])

    return cut


@pytest.fixture
def copy_of(tmp_path):
    """Return a function that copies a directory."""
    return lambda path, name="copy": shutil.copytree(path, tmp_path / name)


@pytest.fixture(scope="session")
def patches8():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
