"""How losses are put together: against closed forms and cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from metaface.multitask import Fixed, PCGrad, Uncertainty, Weighting
from metaface.multitask.weighting import cosines, project


class _Net(nn.Module):
    """Three shared numbers, and one of a task's own."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.ParameterList([torch.zeros(2), torch.zeros(1)])
        self.own = nn.Parameter(torch.zeros(1))

    def along(self, meta_gradient: list[float]) -> Tensor:
        """A loss whose gradient over the trunk is ``meta_gradient``."""
        return torch.cat(list(self.trunk)) @ torch.tensor(meta_gradient)

    def gradient(self) -> Tensor:
        return torch.cat([p.grad if p.grad is not None else 0 * p for p in self.trunk]).detach()


def test_two_conflicting_gradients_by_hand() -> None:
    # (1, 0) and (-1, 1): product -1. (1, 0) + (-1, 1) / 2 = (1/2, 1/2); (-1, 1) + (1, 0) = (0, 1)
    found = project(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    assert torch.allclose(found, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))


def test_agreeing_gradients_are_left_alone() -> None:
    g = torch.tensor([[1.0, 0.5], [0.5, 1.0], [0.0, 1.0]])
    assert torch.equal(project(g), g)


def _yu(gradients: Tensor) -> Tensor:
    """Algorithm 1 of Yu et al. 2020, as it is printed, with vectors."""
    out = []
    for i in range(len(gradients)):
        g = gradients[i].clone()
        for j in torch.randperm(len(gradients)).tolist():
            if j != i and g @ gradients[j] < 0:
                g = g - (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        out.append(g)
    return torch.stack(out)


@pytest.mark.parametrize("seed", range(5))
def test_several_gradients_as_the_papers_algorithm(seed: int) -> None:
    g = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert (g @ g.T < 0).any()
    torch.manual_seed(seed)
    want = _yu(g)
    torch.manual_seed(seed)
    assert torch.allclose(project(g), want)


@pytest.mark.parametrize("seed", range(5))
def test_of_two_tasks_none_points_against_the_other_afterwards(seed: int) -> None:
    g = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    g[1] -= g[0]
    found = project(g)
    assert g[0] @ g[1] < 0
    assert float((found[0] @ g[1]).abs()) < 1e-12
    assert float((found[1] @ g[0]).abs()) < 1e-12
    assert found.sum(0) @ g[0] >= 0 and found.sum(0) @ g[1] >= 0


def test_pcgrad_over_a_network() -> None:
    net = _Net()
    losses = {"a": net.along([1.0, 0, 0]) + 2 * net.own.sum(), "b": net.along([-1.0, 1, 0])}
    PCGrad().backward(losses, net, net.trunk)
    assert torch.allclose(net.gradient(), torch.tensor([0.5, 1.5, 0.0]))
    assert net.own.grad is not None and float(net.own.grad) == 2


def test_pcgrad_without_conflict_is_the_sum() -> None:
    by_pcgrad, by_sum = _Net(), _Net()
    for net, weighting in ((by_pcgrad, PCGrad({"b": 3.0})), (by_sum, Fixed({"b": 3.0}))):
        losses = {"a": net.along([1.0, 0.5, 0]), "b": net.along([0.5, 1, 2])}
        weighting.backward(losses, net, net.trunk)
    assert torch.allclose(by_pcgrad.gradient(), torch.tensor([2.5, 3.5, 6.0]))
    assert torch.equal(by_pcgrad.gradient(), by_sum.gradient())


@pytest.mark.parametrize("weighting", [Fixed(), PCGrad(), Uncertainty(["a"])])
def test_a_single_task_is_left_as_it_is(weighting: Weighting) -> None:
    net = _Net()
    weighting.backward({"a": net.along([1.0, -2, 3])}, net, net.trunk)
    assert torch.equal(net.gradient(), torch.tensor([1.0, -2.0, 3.0]))


def test_uncertainty_finds_the_closed_form() -> None:
    # d/ds (exp(-s) L + s) = 0 at s = log L, where the sum is 1 + log L a task
    losses = {"a": torch.tensor(0.1), "b": torch.tensor(4.0)}
    weighting = Uncertainty(["a", "b"])
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        weighting.backward(losses, nn.Module(), nn.Module())
        optimizer.step()
    for name, loss in losses.items():
        assert float(weighting.log_variances[name].detach()) == pytest.approx(
            math.log(float(loss)), abs=1e-3
        )
    total = sum(float(v.detach()) for v in weighting.weigh(losses).values())
    assert total == pytest.approx(2 + math.log(0.1) + math.log(4), abs=1e-4)


def test_uncertainty_leaves_a_task_without_labels_alone() -> None:
    weighting = Uncertainty(["a", "b"])
    weighting.backward({"a": torch.tensor(2.0)}, nn.Module(), nn.Module())
    assert weighting.log_variances["b"].grad is None
    assert float(weighting.log_variances["a"].grad) == -1  # 1 - exp(-0) * 2


def test_cosines() -> None:
    net = _Net()
    losses = {"a": net.along([3.0, 0, 4]), "b": net.along([3.0, 0, -4]), "c": net.own.sum()}
    found = cosines(losses, net.trunk)
    assert found["a", "b"] == pytest.approx(-7 / 25)
    assert math.isnan(found["a", "c"])
    assert all(p.grad is None for p in net.parameters())
