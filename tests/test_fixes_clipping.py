import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_gradguard import fixes


def step(clip, grad, shape=(2, 2), cls=torch.optim.SGD, **settings):
    """What one step with this gradient does to a weight of ones."""
    w = torch.ones(shape, requires_grad=True)
    optimizer = cls([w], lr=1.0, **settings)
    clip(optimizer)
    w.grad = grad.clone()
    optimizer.step()
    return 1 - w.detach()


def test_norm_scales_and_keeps_the_direction():
    grad = torch.tensor([[30.0, 0.0], [0.0, 40.0]])
    assert torch.allclose(step(lambda o: fixes.clip_by_norm(o, 2.0), grad), grad * 2 / 50, atol=1e-4)
    small = torch.full((2, 2), 0.5)
    assert torch.equal(step(lambda o: fixes.clip_by_norm(o, 2.0), small), small)


def test_value_limits_every_element():
    grad = torch.tensor([[3.0, 0.1], [-9.0, 0.0]])
    expected = torch.tensor([[0.5, 0.1], [-0.5, 0.0]])
    assert torch.allclose(step(lambda o: fixes.clip_by_value(o, 0.5), grad), expected)


def test_adaptive_limits_each_unit_against_its_weights():
    grad = torch.tensor([[3.0, 4.0], [0.003, 0.004]])
    done = step(lambda o: fixes.clip_adaptive(o, 0.1), grad)
    limit = 0.1 * 2**0.5
    assert torch.allclose(done[0], grad[0] * limit / 5, atol=1e-6)
    assert torch.allclose(done[1], grad[1], atol=1e-6)


def test_adaptive_leaves_the_excluded_alone_and_floors_small_weights():
    w, v = torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.SGD([w, v], lr=1.0)
    fixes.clip_adaptive(optimizer, 0.1, eps=0.01, exclude=[v])
    w.grad, v.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0]])
    optimizer.step()
    assert w.norm().item() == pytest.approx(0.001)
    assert v.norm().item() == pytest.approx(5.0)


def test_inside_lightnings_closure():
    class Steep(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def training_step(self, batch):
            return 1e6 * (self.weight * batch.mean()).sum()

        def configure_optimizers(self):
            sgd = torch.optim.SGD(self.parameters(), lr=1.0)
            fixes.clip_by_norm(sgd, 1.0)
            return sgd

    module = Steep()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_steps=3, accelerator="cpu", **quiet).fit(module, DataLoader(torch.ones(6, 1), batch_size=2))
    assert module.weight.norm().item() == pytest.approx(3.0, rel=1e-4)


def test_positional_closure_and_grad_scaler():
    w = torch.zeros(2, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=1.0)
    fixes.clip_by_norm(sgd, 1.0)

    def closure():
        sgd.zero_grad()
        loss = 100 * w.sum()
        loss.backward()
        return loss

    sgd.step(closure)
    assert w.norm().item() == pytest.approx(1.0, rel=1e-4)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sgd.zero_grad()
    scaler.scale(100 * w.sum()).backward()
    scaler.step(sgd)
    assert w.norm().item() == pytest.approx(2.0, rel=1e-4)


def test_a_fused_optimizer_under_a_scaler_is_refused():
    w = torch.zeros(2, requires_grad=True)
    fused = torch.optim.SGD([w], lr=1.0, fused=True)
    fixes.clip_by_norm(fused, 1.0)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(w.sum()).backward()
    with pytest.raises(RuntimeError, match="fused=False"):
        scaler.step(fused)


@pytest.mark.parametrize("clip", [fixes.clip_by_norm, fixes.clip_by_value, fixes.clip_adaptive])
def test_limits_must_be_positive(clip):
    with pytest.raises(ValueError, match=f"{clip.__name__}.* must be positive, got 0"):
        clip(torch.optim.SGD([torch.zeros(1)], lr=0.1), 0)
