"""Torch modules; nothing here knows an AnnData."""

from ._denoiser import denoise, features, make_denoiser, sites
from ._device import compute_device, on_device
from ._extrapolate import extrapolate
from ._gene_encoder import GENE_ENCODERS, GeneEncoder, MLPGeneEncoder, PCAGeneEncoder, SCVIGeneEncoder
from ._grow import grow_denoiser, grow_tokenizer
from ._heads import PatchCNN, PatchCritic
from ._modulation import MODULATIONS, FiLM, LoRA, Modulation, attached
from ._objective import Guide, Objective, sample
from ._tokenizer import decode, encode, make_tokenizer, raw_latents, set_latent_scale, to_tensor, to_uint8

__all__ = [
    "GENE_ENCODERS",
    "MODULATIONS",
    "FiLM",
    "GeneEncoder",
    "Guide",
    "LoRA",
    "MLPGeneEncoder",
    "Modulation",
    "Objective",
    "PCAGeneEncoder",
    "PatchCNN",
    "PatchCritic",
    "SCVIGeneEncoder",
    "attached",
    "compute_device",
    "decode",
    "denoise",
    "encode",
    "extrapolate",
    "features",
    "grow_denoiser",
    "grow_tokenizer",
    "make_denoiser",
    "make_tokenizer",
    "on_device",
    "raw_latents",
    "sample",
    "set_latent_scale",
    "sites",
    "to_tensor",
    "to_uint8",
]
