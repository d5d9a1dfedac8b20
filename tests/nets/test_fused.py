"""Normalisation, scale, shift, ReLU and pooling in one: the same as torch's own calls."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import few_tasks, train
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from metaface.data import FaceSet
from metaface.evaluation import episodic, evaluate
from metaface.learners import MAML, Prototypical
from metaface.nets import Conv4, Norm2d, fused, norm
from metaface.training import loop

pytest.importorskip("numba", reason="numba is not installed: metaface[fast]")


def plain(x: Tensor, gamma: Tensor, beta: Tensor, groups, pool: bool, relu: bool) -> Tensor:
    """By torch's own calls: what follows normalisation first, then the maximum."""
    x = F.batch_norm(x, None, None, training=True) if groups is None else F.group_norm(x, groups)
    x = x * gamma.view(-1, 1, 1) + beta.view(-1, 1, 1)
    x = F.max_pool2d(x, 2) if pool else x
    return F.relu(x) if relu else x


def derivatives(function, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What the function gives, and its first and second derivatives along random directions."""
    draw = torch.Generator().manual_seed(1)

    def along(t: Tensor) -> Tensor:
        return (t * torch.randn(t.shape, generator=draw, dtype=t.dtype)).sin().sum()

    out = function(*inputs)
    first = torch.autograd.grad(along(out), inputs, create_graph=True)
    second = torch.autograd.grad(sum(along(t) for t in first), inputs)
    return [out, *first, *second]


def draw_inputs(height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Gammas of both signs among them."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((4, 8, height, width), (8,), (8,))
    return tuple(
        torch.randn(shape, generator=draw, dtype=dtype).requires_grad_() for shape in shapes
    )


CASES = list(
    itertools.product((None, 2), (True, False), (True, False), ((6, 8), (5, 7), (2, 2), (3, 2)))
)


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-9), (torch.float32, 2e-3)])
@pytest.mark.parametrize("groups, pool, relu, size", CASES)
def test_values_and_derivatives_are_those_of_torchs_own_calls(
    groups, pool, relu, size, dtype, close
):
    inputs = draw_inputs(*size, dtype)
    want = derivatives(lambda *t: plain(*t, groups, pool, relu), inputs)
    have = derivatives(lambda *t: fused.normalise_and_scale(*t, groups, pool, relu), inputs)
    for a, b in zip(have, want, strict=True):
        torch.testing.assert_close(a, b, rtol=close, atol=close * max(1, b.abs().max().item()))


@pytest.mark.parametrize("groups", [None, 2])
def test_derivatives_are_those_of_finite_differences(groups):
    inputs = draw_inputs(4, 4, torch.float64)

    def function(*t: Tensor) -> Tensor:
        return fused.normalise_and_scale(*t, groups, True, True)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("own", [True, False], ids=["gammas-by-task", "one-gamma"])
@pytest.mark.parametrize("mode", ["batch", "group"])
def test_tasks_at_once_are_one_after_the_other(mode, own):
    torch.manual_seed(0)
    layer = Norm2d(8, mode).double()
    x = torch.randn(3, 4, 8, 6, 6, dtype=torch.float64, requires_grad=True)
    shape = (3, 8) if own else (8,)
    weights = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def of_one(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        given = {"weight": gamma, "bias": beta}
        return functional_call(layer, given, (x,), {"pool": True, "relu": True})

    lanes = (0, 0, 0) if own else (0, None, None)
    together = derivatives(lambda *t: vmap(of_one, lanes)(*t), (x, *weights))
    alone = derivatives(
        lambda x, *w: torch.stack(
            [of_one(x[i], *(t[i] if own else t for t in w)) for i in range(len(x))]
        ),
        (x, *weights),
    )
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pool", [True, False])
def test_of_equal_maxima_the_first_has_the_gradient(pool):
    x = torch.ones(1, 2, 4, 4, dtype=torch.float64)
    x[:, 1] = torch.arange(4.0).repeat(4, 1)
    inputs = (x.requires_grad_(), *(t.double() for t in (torch.ones(2), torch.zeros(2))))
    slopes = [
        torch.autograd.grad((f(*inputs, None, pool, False) ** 3).sum(), inputs[0])[0]
        for f in (plain, fused.normalise_and_scale)
    ]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad, relu):
    x = torch.randn(2, 8, 4, 4)
    x[0, 3, 1, 1] = bad
    out = fused.normalise_and_scale(x, torch.ones(8), torch.zeros(8), None, True, relu)
    assert out[:, 3].isnan().all() and out[:, :3].isfinite().all()


def test_the_mean_of_many_large_numbers_is_exact():
    x = 1000 + torch.randn(200, 4, 28, 28)
    out = fused.normalise_and_scale(x, torch.ones(4), torch.zeros(4), None, False, False)
    want = F.batch_norm(x.double(), None, None, training=True)
    assert (out - want).abs().max() < 0.02  # the variance is of squares of a million


def test_a_relu_in_place_after_it_is_right():
    """As torchvision's networks have it."""
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    layer = Norm2d(8, "group")
    want = torch.autograd.grad(F.relu(layer(x)).sum(), x)[0]
    have = torch.autograd.grad(F.relu(layer(x), inplace=True).sum(), x)[0]
    torch.testing.assert_close(have, want)


@pytest.mark.parametrize("down", ["pool", "stride"])
@pytest.mark.parametrize("mode", ["batch", "group", "frozen"])
def test_without_numba_a_meta_gradient_is_the_same(mode, down, monkeypatch):
    tasks = few_tasks(3, ways=3, shots=2, queries=2)
    gradients = []
    for there in (True, False):
        if not there:
            monkeypatch.setattr(norm, "can_fuse", lambda x: False)
        torch.manual_seed(0)
        learner = MAML(Conv4(3, 16, mode, down).double(), 0.1, 3)
        learner.meta_step(tasks)
        gradients.append(nn.utils.parameters_to_vector(p.grad for p in learner.parameters()))
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_without_a_place_for_compiled_passes_training_goes_on_and_says_so(monkeypatch, caplog):
    def refuse(name: str) -> None:
        raise RuntimeError("cannot cache function 'forward': no locator available")

    monkeypatch.setattr(fused.importlib, "import_module", refuse)
    assert fused._load.__wrapped__() is None
    assert "NUMBA_CACHE_DIR" in caplog.text and "no locator" in caplog.text


@pytest.mark.parametrize("where", [loop, episodic], ids=["training", "evaluation"])
def test_passes_are_compiled_before_a_clock_starts(where, monkeypatch):
    """Seconds that would come out of a budget of time, or count as time to adapt."""
    moments: list[str] = []

    def watch(name: str) -> None:
        clock = getattr(where.time, name)
        monkeypatch.setattr(where.time, name, lambda: moments.append("clock") or clock())

    monkeypatch.setattr(norm, "compile_passes", lambda: moments.append("compiled"))
    watch("monotonic" if where is loop else "perf_counter")
    faces = FaceSet.from_arrays(np.zeros((24, 16, 16, 3), np.uint8), np.arange(24) // 3)
    learner = Prototypical(Conv4(3, 8))
    if where is loop:
        train(learner, faces, ways=3, iterations=1, device="cpu", progress=False)
    else:
        evaluate(learner, faces, ways=3, shots=1, queries=1, episodes=2, progress=False)
    assert moments[0] == "compiled" and "clock" in moments


def test_what_is_compiled_beforehand_is_what_a_step_runs():
    from metaface.nets import _kernels

    fused.compile_passes.__wrapped__()
    passes = (_kernels.forward, _kernels.backward, _kernels.second)
    before = [len(one.signatures) for one in passes]
    assert all(before)
    learner = MAML(Conv4(3, 16, "group"), 0.1, 2)
    learner.meta_step(few_tasks(2, ways=3, shots=2, queries=2).to(torch.float32))
    assert [len(one.signatures) for one in passes] == before


def test_a_few_photographs_are_embedded_without_numba():
    """Loading it takes longer than it saves; and what is learnt later changes rounding alone."""
    code = """
import sys, numpy as np, torch
from metaface.learners import Prototypical
from metaface.nets import Conv4, norm
from metaface.recognition import Network, Preprocessing
torch.manual_seed(0)
net = Conv4(3, 8, "group")
embed = Network(net, Preprocessing(size=(28, 28)), name="toy", architecture="conv4")
crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
before, there = embed(crops), "numba" in sys.modules
Prototypical(net).adapt(torch.rand(2, 3, 28, 28), [0, 1])
assert not there and "numba" not in sys.modules
norm.prepare(net)
assert "numba" in sys.modules
print(np.abs(embed(crops) - before).max())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


@pytest.mark.parametrize(
    "x, channels, dtype, said",
    [
        ((2, 16, 4, 4), 8, torch.float32, r"a beta of size 16 .*got \[8\]"),
        ((2, 4, 4, 4), 8, torch.float32, r"a beta of size 4 .*got \[8\]"),
        ((2, 8, 4, 4), 8, torch.float64, r"same dtype, got \[8\] torch.float64"),
        ((2, 8, 1, 4), 8, torch.float32, r"2x2 pixels, got \[2, 8, 1, 4\]"),
    ],
)
def test_memory_that_does_not_fit_is_refused(x, channels, dtype, said):
    given = torch.ones(channels, dtype=dtype), torch.zeros(channels, dtype=dtype)
    with pytest.raises(RuntimeError, match=said):
        fused.normalise_and_scale(torch.rand(x), *given, None, True, True)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_learner_says_what_does_not_fit_with_numba_and_without(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(norm, "can_fuse", lambda x: False)
    images = torch.rand(2, 3, 28, 28)
    with pytest.raises(ValueError, match=r"Conv4 on photographs \[3, 8, 8\].*image_size="):
        MAML(Conv4(3, 8)).adapt(images[..., :8, :8], [0, 1])
    wide = Conv4(3, 8)
    wide.norms[0] = Norm2d(16)
    with pytest.raises(ValueError, match="Conv4 on photographs.*size"):
        MAML(wide).adapt(images, [0, 1])
    assert Norm2d(8).double()(torch.rand(2, 8, 4, 4)).dtype == torch.float64


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and warns of what it cannot see
def test_a_network_that_is_traced_or_exported_goes_by_torchs_own_calls():
    net, images = Conv4(3, 8).eval(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        want = net(images)
        traced = torch.jit.trace(net, images, check_trace=False)
        torch.testing.assert_close(traced(images), want)
        exported = torch.export.export(net, (images,)).module()
        torch.testing.assert_close(exported(images), want)


def test_no_photographs_are_none():
    out = fused.normalise_and_scale(torch.rand(0, 8, 4, 4), *torch.ones(2, 8), 2, True, True)
    assert out.shape == (0, 8, 2, 2)
