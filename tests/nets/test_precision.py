"""Convolutions in bfloat16: what is rounded, what is not, and what is refused."""

from __future__ import annotations

import pytest
import torch
from helpers import few_tasks, flat_gradient, patterns
from torch import nn
from torch.nn import functional as F

import metaface as mf
from metaface import checkpoint
from metaface.nets.conv import Conv2d, check_precision, convolve_in
from metaface.training import Run, runs

BF16 = torch.finfo(torch.bfloat16).eps  # 2 ** -7


@pytest.fixture(autouse=True)
def has_bf16(monkeypatch):
    """Processors without such instructions compute the same, slower."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


def learner(kind: str = "maml") -> mf.learners.MetaLearner:
    torch.manual_seed(0)
    net = mf.nets.Conv4(width=32)
    return mf.learners.MAML(net) if kind == "maml" else mf.learners.Prototypical(net)


def rounded(t: torch.Tensor) -> torch.Tensor:
    return t.bfloat16().double()


def derivatives(convolve, x, weight, g, u, v):
    """A convolution, its gradients for ``g``, and those of their products with u and v."""
    y = convolve(x, weight)
    by_x, by_weight = torch.autograd.grad(y, (x, weight), g, create_graph=True)
    second = torch.autograd.grad((by_x * u).sum() + (by_weight * v).sum(), (g, x, weight))
    return y, by_x, by_weight, *second


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_is_that_of_rounded_factors(stride, groups):
    """Oracle: torch's own, in float64, of what is rounded; its gradients, and theirs."""
    generator = torch.Generator().manual_seed(0)
    layer = Conv2d(32, 16, 3, stride, 1, groups=groups, bias=False)
    x, side = torch.randn(4, 32, 9, 9, generator=generator), -(-9 // stride)
    g = torch.randn(4, 16, side, side, generator=generator)
    given = [x, layer.weight.detach(), g, *(torch.randn_like(t) for t in (x, layer.weight))]

    def plain(x, weight):
        return F.conv2d(x, weight, None, stride, 1, 1, groups)

    def ours(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    exact = derivatives(plain, *(rounded(t).requires_grad_() for t in given))
    with convolve_in(layer, "bf16"):
        got = derivatives(ours, *(t.clone().requires_grad_() for t in given))
    for mine, wanted in zip(got, exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - wanted).abs().max() <= 2 * BF16 * wanted.abs().max()
    assert not torch.equal(got[0], layer(x))  # and in float32 it is another


@pytest.mark.parametrize("kind", ["maml", "prototypical"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_a_meta_gradient_differs_by_the_rounding_alone(kind, chunk):
    """Which is no small one where a rounded number is another maximum, or falls below 0."""
    tasks, one = few_tasks().to(torch.float32), learner(kind).train()
    one.task_chunk = chunk
    one.meta_step(tasks)
    full = flat_gradient(one)
    with convolve_in(one, "bf16"):
        one.meta_step(tasks)
    got = flat_gradient(one)
    assert not torch.equal(got, full) and torch.cosine_similarity(got, full, 0) > 0.95
    one.meta_step(tasks)
    assert torch.equal(flat_gradient(one), full)  # afterwards as before


def test_layers_of_few_channels_stay_float32():
    """The first layer of a picture, and depthwise ones."""
    x = torch.rand(2, 32, 8, 8)
    for layer in (Conv2d(3, 32, 3, padding=1, bias=False), Conv2d(32, 32, 3, groups=32)):
        images = x[:, : layer.in_channels]
        with convolve_in(layer, "bf16"):
            inside = layer(images)
        assert torch.equal(inside, layer(images))


def test_precision_ends_with_an_error():
    net = mf.nets.Conv4()
    with pytest.raises(KeyError), convolve_in(net, "bf16"):
        raise KeyError
    assert not any(m.bf16 for m in net.modules() if isinstance(m, Conv2d))


@pytest.mark.parametrize(
    "net, precision, message",
    [
        (mf.nets.Conv4(), "fp16", "precision='fp16': choose one of float32, bf16"),
        (nn.Conv2d(32, 32, 3), "bf16", "this network has no metaface.nets.conv.Conv2d of 16"),
        (mf.nets.Conv4(width=8), "bf16", "this network has no"),
        (mf.nets.Conv4().double(), "bf16", "float32 weights on the CPU, these are torch.float64"),
        (mf.nets.Conv4().to("meta"), "bf16", "on the CPU, these are torch.float32 on meta"),
    ],
)
def test_refused(net, precision, message):
    with pytest.raises(ValueError, match=message):
        check_precision(net, precision)


def test_a_processor_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    check_precision(mf.nets.Conv4(), "float32")
    run = Run(precision="bf16", device="cpu", progress=False)
    with pytest.raises(ValueError, match="this processor has no instructions for bfloat16"):
        mf.train(learner(), patterns(8), ways=5, shots=1, iterations=1, run=run)


# --- in a training


@pytest.mark.parametrize("kind", ["maml", "prototypical"])
def test_learns(kind):
    faces = patterns(30)
    train, _, test = faces.split(seed=0)
    one = learner(kind)
    before = mf.evaluate(one, test, ways=3, episodes=100, progress=False)
    run = Run(precision="bf16", device="cpu", progress=False)
    mf.train(one, train, ways=5, shots=1, iterations=30, run=run)
    after = mf.evaluate(one, test, ways=3, episodes=100, progress=False)
    assert after.accuracy - after.ci95 > before.accuracy + before.ci95


def test_a_run_goes_on_in_its_own_precision_alone(tmp_path):
    def go_on(precision):
        run = Run(
            out=tmp_path, resume=True, precision=precision, device="cpu", progress=False, seed=1
        )
        return mf.train(learner(), patterns(8), ways=5, shots=1, iterations=2, run=run)

    go_on("bf16")
    with pytest.raises(checkpoint.CheckpointError, match="precision was 'bf16', is 'float32'"):
        go_on("float32")
    assert go_on("bf16").iterations == 2


def test_records_without_a_precision_are_float32():
    """Those of MetaFace 0.2."""
    there = {"options": {"seed": 0}}
    same, other = ({"options": {"seed": 0, "precision": p}} for p in ("float32", "bf16"))
    assert runs.differences(there, same) == ""
    assert runs.differences(there, other) == "precision was 'float32', is 'bf16'"
