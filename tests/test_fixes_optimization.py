import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from lightning_gradguard import fixes


def optimizer(cls=torch.optim.SGD, **settings):
    net = nn.Linear(3, 2)
    return cls([{"params": [net.weight]}, {"params": [net.bias], "lr": 0.5}], **{"lr": 0.1, **settings})


def test_weight_decay_is_the_gradient_of_half_alpha_w_squared():
    w = torch.tensor([3.0, -2.0], requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.1)
    fixes.set_weight_decay(sgd, 0.4)
    w.grad = torch.zeros(2)
    sgd.step()
    v = torch.tensor([3.0, -2.0], requires_grad=True)
    (0.2 * v.square().sum()).backward()  # alpha = value / 2
    assert torch.allclose(w.detach(), v.detach() - 0.1 * v.grad)


def test_weight_decay_errors():
    with pytest.raises(fixes.NothingToChange):
        fixes.set_weight_decay(optimizer(), 0.0)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        fixes.set_weight_decay(optimizer(), -1)
    with pytest.raises(ValueError, match="SparseAdam has no weight_decay"):
        fixes.set_weight_decay(torch.optim.SparseAdam([torch.zeros(1, requires_grad=True)]), 0.1)


def test_scale_lr_keeps_the_ratio_of_groups():
    sgd = optimizer()
    assert len(fixes.scale_lr(sgd, 0.1)) == 2
    assert [g["lr"] for g in sgd.param_groups] == pytest.approx([0.01, 0.05])
    with pytest.raises(fixes.NothingToChange):
        fixes.scale_lr(sgd, 1.0)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        fixes.scale_lr(sgd, 0)


@pytest.mark.parametrize("new", [torch.optim.Adam, torch.optim.Adagrad, torch.optim.AdamW, torch.optim.RMSprop])
def test_switch_keeps_groups_parameters_and_decay(new):
    old = optimizer(weight_decay=0.03)
    made, changes = fixes.switch_optimizer(old, new, lr=1e-3)
    assert type(made) is new
    assert len(changes) == 2
    assert [[id(p) for p in g["params"]] for g in made.param_groups] == [
        [id(p) for p in g["params"]] for g in old.param_groups
    ]
    assert {g["weight_decay"] for g in made.param_groups} == {0.03}
    assert fixes.switch_optimizer(old, new, lr=1e-3, weight_decay=0.5)[0].param_groups[0]["weight_decay"] == 0.5
    with pytest.raises(fixes.NothingToChange):
        fixes.switch_optimizer(made, new, lr=1e-3)


def test_batch_size_keeps_order_and_settings():
    data = TensorDataset(torch.arange(10))
    loader = DataLoader(data, batch_size=2, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(3))
    bigger, changes = fixes.set_batch_size(loader, 5)
    assert [str(c) for c in changes] == ["loader: batch size 2 -> batch size 5"]
    assert bigger.drop_last
    assert bigger.dataset is data
    assert bigger.batch_size == 5
    batches = [b[0].tolist() for b in bigger]
    seen = [number for batch in batches for number in batch]
    assert sorted(seen) == list(range(10))
    assert seen != list(range(10))
    with pytest.raises(fixes.NothingToChange):
        fixes.set_batch_size(bigger, 5)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        fixes.set_batch_size(loader, 0)
    own = DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 2, False))
    with pytest.raises(ValueError, match="batch sampler"):
        fixes.set_batch_size(own, 5)
