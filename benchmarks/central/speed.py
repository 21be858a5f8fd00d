"""Images a second of what pretraining spends its time on, on one core and on all, and what a collection then costs.

    python benchmarks/central/speed.py --out benchmarks/results/central --cores 1 2

Each figure is the median of a few repeats of a step as `c2lst.tl.pretrain` takes it (forward, backward, update; bf16
where the processor has it), on random pixels. The cost is that of the starter's recipe at a given number of tiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from train_starter import DENOISER, PATCH_PX, TOKENIZER

from c2lst import nn
from c2lst.train._fit import default_precision


def rate(step, n: int, repeats: int, device: str) -> float:
    """Images a second: `n` a call, median of `repeats` calls after one that warms up."""
    taken = []
    for k in range(repeats + 1):
        begun = time.perf_counter()
        step()
        if device != "cpu":
            torch.cuda.synchronize()
        if k:
            taken.append(time.perf_counter() - begun)
    return n / statistics.median(taken)


def measure(cores: int, device: str, batch_size: int, repeats: int, compiled: bool) -> dict[str, float]:
    """Rates of the kinds of work on so many cores."""
    torch.set_num_threads(cores)
    bf16 = default_precision("cpu" if device == "cpu" else "auto") == "bf16-mixed"
    tokenizer = nn.make_tokenizer(**{k: v for k, v in TOKENIZER.items() if k != "schedule"}, patch_px=PATCH_PX).to(
        device
    )
    images = torch.rand(batch_size, 3, PATCH_PX, PATCH_PX, device=device) * 2 - 1
    with torch.no_grad():
        z = nn.encode(tokenizer, images)
    sized = {"latent_channels": z.shape[1], "latent_px": z.shape[-1]}
    denoiser = nn.make_denoiser(**{**sized, **DENOISER}).to(device)
    times = torch.rand(batch_size, device=device) * 1000
    adam = {m: torch.optim.AdamW(m.parameters(), lr=1e-4) for m in (tokenizer, denoiser)}

    def learn(module, loss):
        def step():
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                value = loss()
            adam[module].zero_grad()
            value.backward()
            adam[module].step()

        return step

    crops = images[:, :, : PATCH_PX // 2, : PATCH_PX // 2].contiguous()

    def restored(x):
        return (tokenizer.decode(nn.raw_latents(tokenizer, x)).sample.float() - x).abs().mean()

    def encoded():
        with torch.inference_mode():
            nn.encode(tokenizer, images)

    def sampled():
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            nn.denoise(denoiser, z, times)

    def denoised():
        return (nn.denoise(denoiser, z, times).float() - z).square().mean()

    n = batch_size
    found = {
        "tokenizer_crops": rate(learn(tokenizer, lambda: restored(crops)), n, repeats, device),
        "tokenizer": rate(learn(tokenizer, lambda: restored(images)), n, repeats, device),
        "latents": rate(encoded, n, repeats, device),
        "denoiser": rate(learn(denoiser, denoised), n, repeats, device),
        "sampling_step": rate(sampled, n, repeats, device),
    }
    if compiled:
        denoiser.compile()
        found["denoiser_compiled"] = rate(learn(denoiser, denoised), n, repeats, device)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, torch.get_num_threads()], help="of the processor")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="the denoiser's training also by torch.compile")
    args = parser.parse_args()
    found = {}
    for cores in dict.fromkeys(args.cores):
        said = (
            f"{cores} threads"
            if args.device == "cpu"
            else f"{torch.cuda.get_device_name()}, batches of {args.batch_size}"
        )
        found[f"{args.device}, {said}"] = {
            k: round(v, 1) for k, v in measure(cores, args.device, args.batch_size, args.repeats, args.compile).items()
        }
        print(json.dumps(found, indent=1))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"speed_{args.device}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
