from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from safetensors.torch import load_file, save_file

from c2lst import nn
from c2lst.models import CentralModel
from c2lst.models._adopt import condition_positions

WEIGHTS = "diffusion_pytorch_model.safetensors"
WIDTH = 8  # of the image embedding; 1536 in the published one


def _vae(channels):
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=channels,
        scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


@pytest.fixture
def pixcell(tmp_path):
    """Return a function that writes a tiny checkpoint as PixCell's are published, and what it was made of."""

    def write(tokens=1, positions=True):
        torch.manual_seed(tokens)
        path = tmp_path / f"pixcell{tokens}"
        denoiser = PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=32, num_layers=2,
            cross_attention_dim=24, sample_size=8, patch_size=2, caption_channels=WIDTH, interpolation_scale=2,
            use_additional_conditions=False,
        )  # fmt: skip
        denoiser.save_pretrained(path / "transformer")
        config = json.loads((path / "transformer" / "config.json").read_text())
        config |= {"_class_name": "PixCellTransformer2DModel", "caption_num_tokens": tokens}
        (path / "transformer" / "config.json").write_text(json.dumps(config))
        (path / "transformer" / "pixcell_transformer_2d.py").write_text("raise SystemExit('remote code was run')")
        tensors = denoiser.state_dict()
        tensors["caption_projection.uncond_embedding"] = torch.randn(tokens, WIDTH)
        if tokens > 1 and positions:
            tensors["y_pos_embed.y_pos_embed"] = torch.from_numpy(condition_positions(tokens, WIDTH, 4))[None]
        save_file(tensors, path / "transformer" / WEIGHTS, metadata={"format": "pt"})
        DPMSolverMultistepScheduler().save_pretrained(path / "scheduler")
        _vae(16).save_config(path / "vae")  # its settings alone, as published
        index = {
            "_class_name": ["pipeline", "PixCellPipeline"],
            "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
            "transformer": ["pixcell_transformer_2d", "PixCellTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (path / "model_index.json").write_text(json.dumps(index))
        return path, denoiser.eval(), tensors

    return write


@pytest.mark.parametrize("tokens", [1, 4])
@torch.no_grad()
def test_pixcell_is_a_pixart_told_its_own_embedding_of_nothing(pixcell, tmp_path, tokens):
    path, theirs, tensors = pixcell(tokens)
    central = CentralModel.from_pretrained(path, mpp=0.5, vae=_vae(16))
    assert type(central.denoiser) is PixArtTransformer2DModel
    assert (central.patch_px, central.latent_shape) == (16, (16, 8, 8))
    told = tensors["caption_projection.uncond_embedding"]
    if tokens > 1:
        told = told + tensors["y_pos_embed.y_pos_embed"][0]
    z, t = torch.randn(2, 16, 8, 8), torch.tensor([10.0, 500.0])
    expected = theirs(z, encoder_hidden_states=told.expand(2, -1, -1), timestep=t).sample[:, :16]
    torch.testing.assert_close(nn.denoise(central.denoiser, z, t), expected, rtol=1e-4, atol=1e-5)
    zeros = theirs(z, encoder_hidden_states=torch.zeros(2, tokens, WIDTH), timestep=t).sample[:, :16]
    assert (expected - zeros).abs().max() > 1e-3
    # a mean image embedding of the tissue at hand takes the place of nothing, at the same positions
    mine = torch.randn(tokens, WIDTH)
    other = CentralModel.from_pretrained(path, mpp=0.5, vae=_vae(16), condition=mine)
    at = mine + told - tensors["caption_projection.uncond_embedding"]
    expected = theirs(z, encoder_hidden_states=at.expand(2, -1, -1), timestep=t).sample[:, :16]
    torch.testing.assert_close(nn.denoise(other.denoiser, z, t), expected, rtol=1e-4, atol=1e-5)
    # and it survives a round trip
    again = CentralModel.from_pretrained(central.save_pretrained(tmp_path / "ours"))
    assert again.hash == central.hash != other.hash
    assert torch.equal(nn.denoise(again.denoiser, z, t), nn.denoise(central.denoiser, z, t))
    assert central.sample(1, steps=2).shape == (1, 16, 16, 3)


def test_genes_attach_to_pixcell(pixcell):
    central = CentralModel.from_pretrained(pixcell(4)[0], mpp=0.5, vae=_vae(16))
    z, t = torch.randn(2, 16, 8, 8), torch.tensor([10.0, 500.0])
    for kind in ("film", "lora"):
        if kind == "lora":
            pytest.importorskip("peft")
        modulation = nn.MODULATIONS[kind](5, [s.width for s in nn.sites(central.denoiser)], rank=2)
        bound = modulation.bind(central.denoiser)
        with torch.no_grad(), nn.attached(modulation, bound, torch.randn(2, 5)):
            assert torch.equal(nn.denoise(bound, z, t), nn.denoise(central.denoiser, z, t))


def test_pixcell_without_its_autoencoder_asks_for_it(pixcell):
    with pytest.raises(ValueError, match=r"settings of its AutoencoderKL but no weights: they lie apart.*vae="):
        CentralModel.from_pretrained(pixcell()[0], mpp=0.5)
    with pytest.raises(ValueError, match="tokenizer makes 4 channels, the PixArtTransformer2DModel takes 16"):
        CentralModel.from_pretrained(pixcell()[0], mpp=0.5, vae=_vae(4))


def test_positions_left_out_of_the_file_are_computed(pixcell):
    path, _, _ = pixcell(4, positions=False)
    central = CentralModel.from_pretrained(path, mpp=0.5, vae=_vae(16))
    np.testing.assert_array_equal(central.denoiser.condition_position.numpy(), condition_positions(4, WIDTH, 4))


def test_positions_of_embeddings_by_hand():
    found = condition_positions(4, 8, 64)  # 2 x 2 embeddings on 64 tokens a side, at half scale
    for i, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected = []
        for at in (column, row):
            place = at * 64 / 2 / 2 + 64 // 4
            expected += [f(place / 10000**k) for f in (math.sin, math.cos) for k in (0, 0.5)]
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no square grid"):
        condition_positions(3, 8, 64)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("caption_projection.uncond_embedding"), r"lack 'caption_projection\.uncond_embedding'"),
        (
            lambda t: t.update({"caption_projection.uncond_embedding": torch.zeros(2, WIDTH)}),
            r"of shape \(2, 8\); its config says \(4, 8\)",
        ),
        (lambda t: t.update({"y_pos_embed.y_pos_embed": torch.zeros(1, 9, WIDTH)}), r"for \(9, 8\).*says \(4, 8\)"),
        (lambda t: t.pop("proj_out.weight"), r"do not fit PixArtTransformer2DModel: the file lacks"),
        (lambda t: t.update({"stray": torch.zeros(1)}), r"has unknown \['stray'\]"),
    ],
)
def test_a_spoilt_pixcell_is_refused(pixcell, edit_tensors, change, match):
    path, _, _ = pixcell(4)
    edit_tensors(path / "transformer" / WEIGHTS, change)
    with pytest.raises(ValueError, match=match):
        CentralModel.from_pretrained(path, mpp=0.5, vae=_vae(16))


def test_one_embedding_has_no_positions(pixcell, edit_tensors):
    path, _, _ = pixcell(1)
    edit_tensors(
        path / "transformer" / WEIGHTS, lambda t: t.update({"y_pos_embed.y_pos_embed": torch.zeros(1, 1, WIDTH)})
    )
    with pytest.raises(ValueError, match="its config says one embedding"):
        CentralModel.from_pretrained(path, mpp=0.5, vae=_vae(16))


@pytest.mark.parametrize("pipeline", ["dit", "pixart"], indirect=True)
def test_transformers_of_older_diffusers_load_by_their_norm(pipeline, edit):
    kind = json.loads((pipeline / "transformer" / "config.json").read_text())["_class_name"]
    now = CentralModel.from_pretrained(pipeline, mpp=0.5)
    edit(pipeline / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    old = {"num_vector_embeds": None, "only_cross_attention": False, "use_linear_projection": False}
    if kind == DiTTransformer2DModel.__name__:
        old |= {"caption_channels": None, "cross_attention_dim": None, "attention_type": "default"}
    edit(pipeline / "transformer" / "config.json", _class_name="Transformer2DModel", **old)
    assert CentralModel.from_pretrained(pipeline, mpp=0.5).hash == now.hash
    edit(pipeline / "transformer" / "config.json", norm_type="layer_norm")
    with pytest.raises(ValueError, match="Transformer2DModel with norm_type='layer_norm'; known are"):
        CentralModel.from_pretrained(pipeline, mpp=0.5)


@pytest.mark.parametrize("pipeline", ["dit"], indirect=True)
def test_old_names_of_attention_are_known(pipeline):
    now = CentralModel.from_pretrained(pipeline, mpp=0.5)
    file = pipeline / "vae" / WEIGHTS
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    old = {}
    for key, value in tensors.items():
        for new, name in names.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = value
    assert old.keys() != tensors.keys()
    save_file(old, file)
    assert CentralModel.from_pretrained(pipeline, mpp=0.5).hash == now.hash
