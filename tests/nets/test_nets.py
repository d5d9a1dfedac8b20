"""Embedding networks: shapes, normalisation modes, published weights, errors."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny
from torch import nn

from metaface import nets
from metaface.nets import MODES, NETS, Norm2d, norm_mode, refresh_statistics

every_norm = pytest.mark.parametrize("norm", MODES)


def batch(count: int = 6, size: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_every_network_makes_features(name, channels):
    net = nets.build(name, channels, image_size=48)
    images = batch(2, 48, channels)
    features = net(images)
    assert features.ndim == 2 and len(features) == 2 and features.isfinite().all()
    assert norm_mode(net) == "group"
    torch.testing.assert_close(net(images[:1]), features[:1], rtol=1e-4, atol=1e-5)


def test_sizes_of_the_papers():
    images = batch(2, 28, 1)
    assert nets.Conv4(1)(images).shape == (2, 64)
    assert nets.Conv4(1, down="stride")(images).shape == (2, 64 * 4)
    assert nets.Conv4(3, width=32)(batch(2, 84)).shape == (2, 32 * 25)
    assert nets.ResNet12(3)(batch(2, 84)).shape == (2, 512)
    assert nets.Pixels()(images).shape == (2, 784)
    assert nets.Pixels(8)(batch(2, 16)).shape == (2, 192)
    assert nets.Conv4(1, down="stride").norms[0].weight is None  # no gamma, as in MAML's code


def test_torchvision_backbone_takes_grey_and_colour_without_dropout():
    net = nets.build("torchvision:resnet18", norm="group")
    assert net(batch(2, 32)).shape == (2, 512)
    assert net(batch(2, 32, 1)).shape == (2, 512)
    assert norm_mode(net) == "group" and norm_mode(nets.Backbone("resnet18")) == "frozen"
    mobilenet = nets.Backbone("mobilenet_v3_small")
    assert not any(isinstance(m, nn.Dropout | nn.BatchNorm2d) for m in mobilenet.modules())
    assert mobilenet(batch(2, 32)).ndim == 2


own_statistics = pytest.mark.parametrize("norm", [m for m in MODES if m != "pinned"])


@own_statistics
def test_normalised_activations_have_mean_0_and_variance_1(norm):
    x = 3 + 5 * batch(8).repeat(1, 8, 1, 1)  # 24 channels
    y = Norm2d(24, norm)(x)
    groups = y.unflatten(1, (8, 3)).flatten(2) if norm == "group" else y.transpose(0, 1).flatten(1)
    torch.testing.assert_close(
        groups.mean(-1), torch.zeros_like(groups.mean(-1)), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(groups.std(-1), torch.ones_like(groups.std(-1)), atol=0.01, rtol=0)


@own_statistics
def test_norm_is_torchs_own_with_gamma_and_beta(norm):
    ours = Norm2d(16, norm)
    theirs = nn.GroupNorm(8, 16) if norm == "group" else nn.BatchNorm2d(16)
    for ours_p, theirs_p in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        nn.init.normal_(ours_p)
        theirs_p.data.copy_(ours_p.data)
    x = torch.randn(4, 16, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_only_frozen_layers_differ_in_evaluation():
    images = batch()
    for norm in MODES:
        net = tiny(norm)
        trained = net.train()(images)
        assert torch.equal(net.eval()(images), trained) == (norm != "frozen")


def test_refreshed_statistics_are_the_populations():
    net, batches = tiny("frozen").double(), [batch(4).double(), 0.5 * batch(4).double()]
    weights = [p.clone() for p in net.parameters()]
    for _ in range(2):  # afresh each time
        refresh_statistics(net, iter(batches))
    means, variances = zip(
        *(
            (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
            for x in (net.convs[0](images * 2 - 1) for images in batches)
        ),
        strict=True,
    )
    first = net.norms[0]
    torch.testing.assert_close(first.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack(variances).mean(0))
    assert int(first.num_batches_tracked) == 2
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    # with one batch, evaluation is then what training computes on it
    refresh_statistics(net, batches[:1])
    trained = net.train()(batches[0])
    torch.testing.assert_close(net.eval()(batches[0]), trained)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_networks_without_population_statistics_are_left_alone(norm):
    net = tiny(norm)
    refresh_statistics(net, (pytest.fail("read") for _ in range(1)))
    assert not list(net.buffers())


def test_norm_mode_names_the_one_that_leaks_most():
    assert norm_mode(nets.Pixels()) == "none"
    assert norm_mode(nn.Sequential(Norm2d(8, "group"), Norm2d(8, "frozen"))) == "frozen"
    assert norm_mode(nn.Sequential(Norm2d(8, "batch"), Norm2d(8, "frozen"))) == "batch"
    assert norm_mode(nn.BatchNorm2d(8)) == "frozen"


def test_pretrained_mobilefacenet_loads_by_its_published_keys(test_data):
    path = test_data("weights/mobilefacenet_casia.ckpt")
    net = nets.pretrained(path)
    published = torch.load(path, map_location="cpu", weights_only=True)["net_state_dict"]
    state = net.state_dict()
    assert set(state) == set(published)
    assert all(torch.equal(state[name], published[name]) for name in published)
    assert not net.training and norm_mode(net) == "frozen" and net.image_size == (112, 96)
    images = torch.rand(3, 3, 112, 96)
    features = net(images)
    assert features.shape == (3, 128)
    torch.testing.assert_close(net(images[1:2]), features[1:2], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(features[0], features[1], atol=1e-2)


def test_the_published_keys_of_mobilefacenet():
    """So that weights of Xiaoccer/MobileFaceNet_Pytorch load where the file is not at hand."""
    keys = set(nets.MobileFaceNet().state_dict())
    assert len(keys) == 333
    assert {
        "conv1.conv.weight",
        "conv1.prelu.weight",
        "dw_conv1.bn.running_var",
        "blocks.0.conv.0.weight",
        "blocks.14.conv.7.num_batches_tracked",
        "linear7.bn.bias",
        "linear1.conv.weight",
    } <= keys


def test_weights_come_back_from_a_bare_state_dict(tmp_path):
    net = nets.MobileFaceNet(1, (64, 64), features=32).eval()
    torch.save(net.state_dict(), tmp_path / "bare.ckpt")
    images = batch(2, 64, 1)
    assert torch.equal(nets.pretrained(tmp_path / "bare.ckpt")(images), net(images))


def test_errors_name_the_choices(tmp_path):
    for call, message in (
        (lambda: nets.build("conv5"), "no network 'conv5': choose one of conv4, .*torchvision:"),
        (lambda: nets.build("torchvision:resnet19"), "no classification network 'resnet19'"),
        (lambda: nets.Backbone("squeezenet1_0"), "no linear classifier"),
        (
            lambda: nets.Conv4(norm="layer"),
            "norm='layer': choose one of batch, frozen, pinned, group",
        ),
        (lambda: nets.Conv4(down="avg"), "choose 'pool' or 'stride'"),
        (lambda: nets.MobileFaceNet()(batch(1, 64)), "built for 112x112 .*got 64x64"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nothing\.ckpt"):
        nets.pretrained(tmp_path / "nothing.ckpt")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is not a MobileFaceNet checkpoint"):
        nets.pretrained(tmp_path / "other.ckpt")
