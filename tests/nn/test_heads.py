from __future__ import annotations

import torch

from c2lst import nn


def test_a_patch_of_any_size_becomes_genes():
    torch.manual_seed(0)
    network = nn.PatchCNN(3, channels=(8, 16)).eval()
    for side in (8, 13, 32):
        assert network(torch.rand(2, 3, side, side)).shape == (2, 3)


def test_config_rebuilds_the_network():
    torch.manual_seed(0)
    network = nn.PatchCNN(3, channels=(8, 16), dropout=0.3).eval()
    again = nn.PatchCNN(**network.config).eval()
    again.load_state_dict(network.state_dict())
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(network(x), again(x))
    assert again.config == {"n_genes": 3, "channels": [8, 16], "dropout": 0.3}


def test_rows_do_not_see_each_other():
    torch.manual_seed(0)
    network = nn.PatchCNN(3, channels=(8, 8)).eval()
    x = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(network(x[1:2])[0], network(x)[1], rtol=1e-4, atol=1e-6)
