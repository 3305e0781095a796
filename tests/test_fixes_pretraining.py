import itertools

import pytest
import torch
from torch import nn

from lightning_gradguard import fixes

PATTERNS = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(40, 1)


def log_likelihood(rbm, data):
    """Exact: log of the sum over hidden states, minus the partition function over all visible states."""

    def free_energy(v):
        return -(v @ rbm.visible_bias) - nn.functional.softplus(v @ rbm.weight.T + rbm.hidden_bias).sum(1)

    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=data.shape[1])))
    return float((-free_energy(data)).mean() - torch.logsumexp(-free_energy(every), 0))


@pytest.mark.parametrize("k", [1, 5])
def test_contrastive_divergence_increases_the_exact_likelihood(k):
    rbm = fixes.RBM(6, 4)
    fixes.train_rbm(rbm, PATTERNS, epochs=1, seed=0, k=k)
    early = log_likelihood(rbm, PATTERNS)
    fixes.train_rbm(rbm := fixes.RBM(6, 4), PATTERNS, epochs=100, batch_size=20, seed=0, k=k)
    # Uniform noise has -6 ln 2 = -4.16, the two patterns themselves -ln 2 = -0.69.
    assert early < -3.0
    assert log_likelihood(rbm, PATTERNS) > -1.3


def test_a_large_k_estimates_the_exact_gradient():
    torch.manual_seed(0)
    rbm = fixes.RBM(4, 3)
    rbm.weight.normal_(0, 0.5)
    data = PATTERNS[:2, 1:5].repeat(20_000, 1)
    weight = rbm.weight.clone().requires_grad_()
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    positive = nn.functional.softplus(data[:2] @ weight.T).sum(1).mean()
    exact = positive - torch.logsumexp(nn.functional.softplus(every @ weight.T).sum(1), 0)
    exact.backward()
    estimate = rbm.divergence(data, 60, torch.Generator().manual_seed(0))[0]
    # Mean-field visible units make CD a biased estimate: direction and size must agree, not the digits.
    cosine = nn.functional.cosine_similarity(estimate.flatten(), weight.grad.flatten(), dim=0)
    assert float(cosine) > 0.95
    assert float(estimate.norm() / weight.grad.norm()) == pytest.approx(1.0, abs=0.25)


def test_gaussian_visible_units_learn_a_direction():
    data = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)).sign() * torch.ones(1, 5)
    assert fixes.train_rbm(fixes.RBM(5, 3, gaussian=True), data, epochs=60, lr=0.02, seed=0) < 0.3


def net():
    return nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))


def test_layers_are_trained_from_the_input_up_on_what_the_last_puts_out():
    model = net()
    output = model[4].weight.clone()
    kept = [id(p) for p in model.parameters()]
    changes = fixes.pretrain(model, PATTERNS, progress=False, epochs=100, batch_size=20, seed=1)
    assert [c.layer for c in changes] == ["0", "2"]
    assert [id(p) for p in model.parameters()] == kept
    assert torch.equal(model[4].weight, output)
    second = fixes.RBM(4, 3)
    with torch.no_grad():
        hidden = torch.sigmoid(model[0](PATTERNS))
    fixes.train_rbm(second, hidden, epochs=100, batch_size=20, seed=1)
    assert torch.allclose(second.weight, model[2].weight, atol=1e-6)
    # The two patterns end up apart in the top layer.
    top = model[:4](PATTERNS[:2])
    assert (top[0] - top[1]).abs().max().item() > 0.5


def test_autoencoder_gets_the_transposed_weights():
    auto = nn.Sequential(nn.Linear(6, 3), nn.Sigmoid(), nn.Linear(3, 6), nn.Sigmoid())
    fixes.pretrain(auto, PATTERNS, mirror={"0": "2"}, progress=False, epochs=100, batch_size=20)
    assert torch.equal(auto[2].weight, auto[0].weight.T)
    error = (auto(PATTERNS) - PATTERNS).square().mean() / PATTERNS.var(0, correction=0).mean()
    assert error.item() < 0.2


def test_errors_and_repeatability():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\].* got -1 to 1"):
        fixes.pretrain(net(), PATTERNS * 2 - 1, progress=False)
    with pytest.raises(fixes.NothingToChange, match="hidden sigmoid"):
        fixes.pretrain(nn.Sequential(nn.Linear(6, 2), nn.Sigmoid()), PATTERNS, progress=False)
    one, two = net(), net()
    for model in (one, two):
        fixes.pretrain(model, PATTERNS, progress=False, epochs=3, seed=4)
    assert torch.equal(one[2].weight, two[2].weight)
