"""Directories that diffusers' own pipelines save, with tiny random modules, through CentralModel.from_pretrained."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")  # the pipelines of diffusers import it, c2lst does not

from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    LDMPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

from c2lst import nn
from c2lst.models import CentralModel
from c2lst.models._files import PICKLES

WEIGHTS = "diffusion_pytorch_model.safetensors"
BLOCKS = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}
UNET = {"layers_per_block": 1, "block_out_channels": (8, 8), "norm_num_groups": 4, "sample_size": 4}


def kl(channels=4, **kwargs):
    return AutoencoderKL(**BLOCKS, latent_channels=channels, sample_size=8, **kwargs)


def unet(channels=4, **kwargs):
    return UNet2DModel(
        **UNET, in_channels=channels, out_channels=channels, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4, **kwargs,
    )  # fmt: skip


def unet_condition(**kwargs):
    return UNet2DConditionModel(
        **UNET, in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=8, attention_head_dim=4, **kwargs,
    )  # fmt: skip


def dit():
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=4,
        patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip
    return DiTPipeline(transformer, kl(scaling_factor=0.5), DDIMScheduler())


def transformer(channels=16, **kwargs):
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=channels, out_channels=2 * channels, num_layers=2,
        cross_attention_dim=24, sample_size=4, patch_size=2, caption_channels=6, **kwargs,
    )  # fmt: skip


def pixart():
    vae = kl(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    parts = {"tokenizer": None, "text_encoder": None, "vae": vae}
    return PixArtAlphaPipeline(
        **parts, transformer=transformer(use_additional_conditions=True), scheduler=DPMSolverMultistepScheduler()
    )


def stable_diffusion():
    return StableDiffusionPipeline(
        vae=kl(), text_encoder=None, tokenizer=None, unet=unet_condition(),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def ldm():
    return LDMPipeline(VQModel(**BLOCKS, latent_channels=4, num_vq_embeddings=16), unet(), DDIMScheduler())


# name: (pipeline, the class of its denoiser, the folders of its parts)
PIPELINES = {
    "dit": (dit, DiTTransformer2DModel, {"transformer", "vae", "scheduler"}),
    "pixart": (pixart, PixArtTransformer2DModel, {"transformer", "vae", "scheduler"}),
    "stable diffusion": (stable_diffusion, UNet2DConditionModel, {"unet", "vae", "scheduler"}),
    "ldm": (ldm, UNet2DModel, {"unet", "vqvae", "scheduler"}),
}


@pytest.fixture(scope="module", params=list(PIPELINES))
def theirs(request, tmp_path_factory):
    torch.manual_seed(0)
    make, kind, folders = PIPELINES[request.param]
    pipe = make()
    path = tmp_path_factory.mktemp("theirs") / "pipe"
    pipe.save_pretrained(path)
    assert {p.name for p in path.iterdir() if p.is_dir()} == folders
    return path, pipe, kind


@pytest.fixture
def save(tmp_path):
    def write(pipe, name="pipe"):
        pipe.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def test_each_loads_with_the_weights_diffusers_wrote(theirs, tmp_path):
    path, pipe, kind = theirs
    central = CentralModel.from_pretrained(path, mpp=0.5)
    assert type(central.denoiser) is kind
    assert (central.mpp, central.patch_px, central.latent_shape[1:]) == (0.5, 8, (4, 4))
    own = getattr(pipe, "transformer", None) or pipe.unet
    for key, value in own.state_dict().items():
        assert torch.equal(central.denoiser.state_dict()[key], value)
    assert not any(p.requires_grad for m in (central.denoiser, central.tokenizer) for p in m.parameters())
    patches = central.sample(2, seed=0, steps=2)
    assert patches.shape == (2, 8, 8, 3)
    assert central.decode(central.encode(patches)).shape == patches.shape
    # what c2lst saves of it is the same model, and diffusers reads its parts
    again = CentralModel.from_pretrained(central.save_pretrained(tmp_path / "ours"))
    assert again.hash == central.hash
    np.testing.assert_array_equal(again.sample(2, seed=0, steps=2), patches)


def test_genes_attach_to_each_by_the_same_mechanism(theirs):
    central = CentralModel.from_pretrained(theirs[0], mpp=0.5)
    before = central.hash
    film = nn.FiLM(5, [s.width for s in nn.sites(central.denoiser)], rank=2)
    z = torch.randn(2, *central.latent_shape, generator=torch.Generator().manual_seed(0))
    plain = nn.sample(central.denoiser, central.scheduler, z, steps=2)
    told = {"modulation": film, "condition": torch.randn(2, 5)}
    assert torch.equal(nn.sample(central.denoiser, central.scheduler, z, steps=2, **told), plain)
    with nn.attached(film, central.denoiser, told["condition"]):
        nn.denoise(central.denoiser, z, torch.tensor([10.0, 500.0])).square().mean().backward()
    assert film.base.grad.abs().sum() > 0
    assert all(p.grad is None for p in central.denoiser.parameters())
    with torch.no_grad():
        film.base.add_(0.3)
        film.out.weight.add_(0.3)
    assert not torch.equal(nn.sample(central.denoiser, central.scheduler, z, steps=2, **told), plain)
    central._hash = None
    assert central.hash == before


def test_the_latents_are_scaled_as_the_pipelines_own(theirs):
    path, pipe, _ = theirs
    central = CentralModel.from_pretrained(path, mpp=0.5)
    vae = getattr(pipe, "vae", None) or pipe.vqvae
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        out = vae.encode(x)
        raw = out.latents if hasattr(out, "latents") else out.latent_dist.mode()
        z = nn.encode(central.tokenizer, x)
        torch.testing.assert_close(z, (raw - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor)
        torch.testing.assert_close(nn.decode(central.tokenizer, z), vae.decode(raw).sample, rtol=1e-3, atol=1e-4)


def test_text_encoders_and_the_like_are_not_read(save):
    path = save(stable_diffusion())
    (path / "text_encoder").mkdir()
    (path / "text_encoder" / "config.json").write_text("not json")
    (path / "text_encoder" / "model.safetensors").write_bytes(b"not safetensors")
    (path / "unet" / "custom.py").write_text("raise SystemExit('remote code')")
    index = json.loads((path / "model_index.json").read_text())
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "safety_checker": ["remote_code", "Checker"]}
    (path / "model_index.json").write_text(json.dumps(index))
    assert CentralModel.from_pretrained(path, mpp=0.5).patch_px == 8


def test_a_patch_in_pixels_is_told_to_models_that_ask(save, monkeypatch):
    central = CentralModel.from_pretrained(save(pixart()), mpp=0.5)
    told = []
    monkeypatch.setattr(
        type(central.denoiser.adaln_single), "forward",
        lambda self, t, added, **kw: (told.append(added), (torch.zeros(2, 6 * 24), torch.zeros(2, 24)))[1],
    )  # fmt: skip
    nn.denoise(central.denoiser, torch.zeros(2, 16, 4, 4), torch.zeros(2))
    assert told[0]["resolution"].tolist() == [[8.0, 8.0]] * 2  # 4 px of latents, shrunk by 2
    assert told[0]["aspect_ratio"].tolist() == [[1.0]] * 2


def test_the_autoencoder_may_lie_apart(save, tmp_path, edit):
    pipe = pixart()
    path = save(pipe)
    whole = CentralModel.from_pretrained(path, mpp=0.5)
    (path / "vae").rename(tmp_path / "apart")
    (path / "vae").mkdir()
    (path / "vae" / "config.json").write_text((tmp_path / "apart" / "config.json").read_text())
    with pytest.raises(ValueError, match=r"settings of its AutoencoderKL but no weights.*vae="):
        CentralModel.from_pretrained(path, mpp=0.5)
    assert CentralModel.from_pretrained(path, mpp=0.5, vae=tmp_path / "apart").hash == whole.hash
    assert CentralModel.from_pretrained(path, mpp=0.5, vae=pipe.vae).hash == whole.hash
    other = save(pixart(), "other")  # a pipeline's directory will do: its autoencoder is taken
    assert CentralModel.from_pretrained(path, mpp=0.5, vae=other).latent_shape == (16, 4, 4)
    edit(path / "model_index.json", vae=[None, None])
    with pytest.raises(ValueError, match=r"one tokenizer.*its autoencoder lies apart; pass that one as .*vae="):
        CentralModel.from_pretrained(path, mpp=0.5)
    assert CentralModel.from_pretrained(path, mpp=0.5, vae=str(tmp_path / "apart")).hash == whole.hash


def test_what_is_no_autoencoder_is_refused(save, tmp_path):
    path = save(pixart())
    with pytest.raises(ValueError, match="tokenizer makes 4 channels, the PixArtTransformer2DModel takes 16"):
        CentralModel.from_pretrained(path, mpp=0.5, vae=kl())
    with pytest.raises(TypeError, match="vae must be a directory or one of .*, not Linear"):
        CentralModel.from_pretrained(path, mpp=0.5, vae=torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="is a PixArtTransformer2DModel; vae must be one of"):
        CentralModel.from_pretrained(path, mpp=0.5, vae=path / "transformer")
    with pytest.raises(FileNotFoundError, match="no directory"):
        CentralModel.from_pretrained(path, mpp=0.5, vae=tmp_path / "nowhere")


def dc():
    # a bottleneck of plain residual blocks: the attention of the published ones is not needed here
    return AutoencoderDC(
        latent_channels=4, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        scaling_factor=0.41407,
    )  # fmt: skip


def tiny_vae():
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip


@pytest.mark.parametrize("make", [dc, tiny_vae])
def test_other_autoencoders_are_tokenizers_too(save, tmp_path, make, recwarn):
    torch.manual_seed(0)
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path / "apart")
    central = CentralModel.from_pretrained(save(dit()), mpp=0.5, vae=tmp_path / "apart")
    assert central.latent_shape == (4, 4, 4)
    assert central.sample(2, steps=2).shape == (2, 8, 8, 3)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        out = tokenizer.encode(x)
        raw = out.latent if isinstance(tokenizer, AutoencoderDC) else out.latents
        torch.testing.assert_close(nn.encode(central.tokenizer, x), raw * tokenizer.config.scaling_factor)
        nn.set_latent_scale(central.tokenizer, raw)
    again = CentralModel.from_pretrained(central.save_pretrained(tmp_path / "ours"))
    assert list(again.tokenizer.config.latents_mean) == list(central.tokenizer.config.latents_mean)
    assert torch.equal(nn.encode(again.tokenizer, x), nn.encode(central.tokenizer, x))


def test_a_model_of_pixels_is_refused_with_the_reason(save):
    path = save(DDPMPipeline(unet(3), DDPMScheduler()))
    with pytest.raises(ValueError, match=r"names .*UNet2DModel.*It has no autoencoder: it is a model of pixels"):
        CentralModel.from_pretrained(path, mpp=0.5)


@pytest.mark.parametrize("suffix", sorted(PICKLES))
def test_a_pickle_anywhere_is_refused(save, suffix):
    path = save(dit())
    (path / "text_encoder").mkdir()
    (path / "text_encoder" / f"model{suffix}").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="pickles run code"):
        CentralModel.from_pretrained(path, mpp=0.5)


def test_unknown_classes_and_settings_are_refused(save, edit):
    path = save(dit())
    edit(path / "scheduler" / "scheduler_config.json", _class_name="DDPMScheduler")
    with pytest.raises(ValueError, match="is a DDPMScheduler, but model_index.json calls it a DDIMScheduler"):
        CentralModel.from_pretrained(path, mpp=0.5)
    edit(path / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler", beta_schedule="by heart")
    with pytest.raises(ValueError, match="makes no DDIMScheduler"):
        CentralModel.from_pretrained(path, mpp=0.5)
    edit(path / "model_index.json", scheduler=["diffusers", "TCDScheduler"])
    with pytest.raises(ValueError, match=r"one scheduler among .*DDIMScheduler.*it names .*TCDScheduler"):
        CentralModel.from_pretrained(path, mpp=0.5)
    edit(path / "model_index.json", vae=["diffusers", "AsymmetricAutoencoderKL"])
    edit(path / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    edit(path / "scheduler" / "scheduler_config.json", beta_schedule="linear")
    with pytest.raises(ValueError, match=r"one tokenizer among .*it names .*AsymmetricAutoencoderKL"):
        CentralModel.from_pretrained(path, mpp=0.5)
    edit(path / "transformer" / "config.json", norm_type="by heart")
    with pytest.raises(ValueError, match="makes no DiTTransformer2DModel"):
        CentralModel.from_pretrained(path, mpp=0.5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"addition_embed_type": "image", "encoder_hid_dim": 4}, "addition_embed_type='image'"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"num_class_embeds": 3}, "num_class_embeds=3"),
    ],
)
def test_a_unet_that_asks_for_more_is_refused(save, settings, match):
    pipe = stable_diffusion()
    pipe.register_modules(unet=unet_condition(**settings))
    with pytest.raises(ValueError, match=f"asks for a condition c2lst cannot give it: {match}"):
        CentralModel.from_pretrained(save(pipe), mpp=0.5)


def test_classes_and_embeddings_can_be_named(save, tmp_path):
    pipe = ldm()
    pipe.register_modules(unet=unet(num_class_embeds=3))
    path = save(pipe)
    with pytest.raises(ValueError, match=r"knows 3 classes and none .* condition=<integer>"):
        CentralModel.from_pretrained(path, mpp=0.5)
    one = CentralModel.from_pretrained(path, mpp=0.5, condition=1)
    two = CentralModel.from_pretrained(path, mpp=0.5, condition=2)
    assert one.hash != two.hash
    again = CentralModel.from_pretrained(one.save_pretrained(tmp_path / "ours", half=True))
    assert again.denoiser.null_condition.item() == 1
    with pytest.raises(ValueError, match=r"integer in 0\.\.2, not 3"):
        CentralModel.from_pretrained(path, mpp=0.5, condition=3)

    path = save(pixart(), "pixart")
    embedding = np.random.default_rng(0).normal(size=(3, 6))
    told = CentralModel.from_pretrained(path, mpp=0.5, condition=embedding)
    assert told.hash != CentralModel.from_pretrained(path, mpp=0.5).hash
    again = CentralModel.from_pretrained(told.save_pretrained(tmp_path / "told"))
    assert again.hash == told.hash
    np.testing.assert_allclose(again.denoiser.null_condition.numpy(), embedding, rtol=1e-6)
    with pytest.raises(ValueError, match=r"must have shape \(tokens, 6\), not \(3, 5\)"):
        CentralModel.from_pretrained(path, mpp=0.5, condition=embedding[:, :5])


def test_shards_and_variants_are_read_as_one(save):
    pipe = dit()
    whole = CentralModel.from_pretrained(save(pipe), mpp=0.5)
    shards = save(pipe, "shards")
    (shards / "transformer" / WEIGHTS).unlink()
    pipe.transformer.save_pretrained(shards / "transformer", max_shard_size="20KB")
    assert len(list((shards / "transformer").glob("*-of-*.safetensors"))) > 1
    assert CentralModel.from_pretrained(shards, mpp=0.5).hash == whole.hash
    next((shards / "transformer").glob("*-of-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="lacks .*-of-"):
        CentralModel.from_pretrained(shards, mpp=0.5)
    half = save(pipe, "half")
    (half / "vae" / WEIGHTS).unlink()
    pipe.vae.save_pretrained(half / "vae", variant="fp16")
    assert CentralModel.from_pretrained(half, mpp=0.5).hash == whole.hash


def test_a_patch_must_fit_both_parts(save):
    path = save(dit())
    assert CentralModel.from_pretrained(path, mpp=0.5, patch_px=16).sample(1, steps=2).shape == (1, 16, 16, 3)
    with pytest.raises(ValueError, match="patch_px=9 is no multiple of 2, by which the tokenizer shrinks"):
        CentralModel.from_pretrained(path, mpp=0.5, patch_px=9)
    with pytest.raises(ValueError, match="latents of 5 px, no multiple of 2.*choose a multiple of 4"):
        CentralModel.from_pretrained(path, mpp=0.5, patch_px=10)


def test_a_revision_is_for_the_hub(save):
    with pytest.raises(ValueError, match="revision='main' is for models of the Hub"):
        CentralModel.from_pretrained(save(dit()), mpp=0.5, revision="main")


def test_genes_are_taught_to_a_pipeline(save, toy):
    import anndata as ad

    import c2lst as c2l

    table = toy["table"]
    small = np.ascontiguousarray(table.obsm["patches"][:, ::8, ::8])
    data = ad.AnnData(table.X, obs=table.obs, var=table.var, obsm={"patches": small})
    data.uns["c2lst"] = {
        "patches": {"patches": {**table.uns["c2lst"]["patches"]["patches"], "mpp": 16.0, "patch_px": 8}}
    }
    central = CentralModel.from_pretrained(save(pixart()), mpp=16.0)
    before = central.hash
    local = c2l.tl.adapt(data, central, steps=2, progress=False)
    assert local.sample(None, n=2, steps=2).shape == (2, 8, 8, 3)
    central._hash = None
    assert central.hash == before
