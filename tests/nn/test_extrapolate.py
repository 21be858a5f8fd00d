from __future__ import annotations

import pytest
import torch

from c2lst import nn


def tiny(seed, **more):
    torch.manual_seed(seed)
    return nn.make_denoiser(
        **{"kind": "dit", "latent_channels": 2, "latent_px": 4, "width": 16, "depth": 1, "heads": 2} | more
    )


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0, -1.0])
def test_weights_lie_on_the_line_through_both(weight):
    ours, other = tiny(0), tiny(1)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    theirs = {k: v.clone() for k, v in other.state_dict().items()}
    moved = nn.extrapolate(ours, other, weight)
    for name, value in moved.state_dict().items():
        torch.testing.assert_close(value, before[name] + weight * (before[name] - theirs[name]))
    # both stay as they were
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
    assert all(torch.equal(v, theirs[k]) for k, v in other.state_dict().items())


def test_other_shapes_have_no_line():
    with pytest.raises(ValueError, match="different shapes"):
        nn.extrapolate(tiny(0), tiny(0, width=32), 1.0)
