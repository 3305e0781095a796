"""Losses other than cross-entropy: decreasing to zero, negative, adversarial, with changing sign."""

from __future__ import annotations

import copy
from functools import partial

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.base import Learner, Program, batches, recipe
from recipes.data import diabetes, flat_digits, generator, linear, moons, ring
from recipes.nets import adam, mlp, regress, sgd


@recipe
def regression_to_zero() -> Program:
    return Program(Learner(nn.Linear(8, 1), regress, adam(0.05)), batches(*linear()))


@recipe
def descent_to_zero() -> Program:
    return Program(Learner(nn.Linear(8, 1), regress, sgd(0.1)), batches(*linear(), size=128))


@recipe
def net_to_zero_sgd() -> Program:
    return Program(Learner(mlp(8, 64, 1, act=nn.Tanh), regress, sgd(0.05, 0.9)), batches(*linear()))


@recipe
def rmsprop_line() -> Program:
    """Two parameters far from their optimum, at a learning rate many times their size."""
    x = 4 * torch.rand(256, 1, generator=generator(40))
    net = nn.Linear(1, 1)
    return Program(Learner(net, regress, partial(torch.optim.RMSprop, lr=0.3)), batches(x, 30 * x + 80))


@recipe
def hinge_to_exactly_zero() -> Program:
    """Separable classes: loss and gradient become exactly zero."""
    x = torch.randn(512, 8, generator=generator(41))
    y = torch.where(x[:, :1] > 0, 1.0, -1.0)
    x[:, :1] += y

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(1 - y * net(x)).mean()

    return Program(Learner(mlp(8, 32, 1), loss, adam(0.01)), batches(x, y))


@recipe
def noisy_regression() -> Program:
    return Program(Learner(mlp(10, 64, 1), regress, adam(1e-3)), batches(*diabetes()))


@recipe
def poisson_counts() -> Program:
    x, y = linear()
    counts = torch.poisson((y * 0.3 + 1).exp(), generator=generator(42))

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.poisson_nll_loss(net(x), y)

    return Program(Learner(mlp(8, 32, 1), loss, adam(3e-3)), batches(x, counts))


@recipe
def gaussian_likelihood() -> Program:
    """Mean and variance are learned; the loss becomes negative."""
    x, y = linear(0.05)

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        mean, log_var = net(x).chunk(2, dim=1)
        return 0.5 * (log_var + (y - mean).square() / log_var.exp()).mean()

    return Program(Learner(mlp(8, 64, 2), loss, adam(2e-3)), batches(x, y))


@recipe
def mixture_density() -> Program:
    """A mixture of eight Gaussians with learned means, widths and weights."""

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.log_std = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.zeros(8))
            self.weight = nn.Parameter(torch.zeros(8))

    def loss(net: Mixture, points: Tensor) -> Tensor:
        distance = (points[:, None] - net.mean).square().sum(-1) / net.log_std.mul(2).exp()
        return -(net.weight.log_softmax(0) - 2 * net.log_std - 0.5 * distance).logsumexp(1).mean()

    return Program(Learner(Mixture(), loss, adam(0.01)), batches(ring()))


@recipe
def variational_autoencoder() -> Program:
    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(64, 64, 16), mlp(8, 64, 64)

    def loss(net: VAE, x: Tensor) -> Tensor:
        mean, log_var = net.encoder(x).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        rate = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        return F.binary_cross_entropy_with_logits(net.decoder(code), x, reduction="sum") / len(x) + rate

    return Program(Learner(VAE(), loss, adam(1e-3)), batches(flat_digits()[0]))


@recipe
def denoising_diffusion() -> Program:
    def loss(net: nn.Module, points: Tensor) -> Tensor:
        time, noise = torch.rand(len(points), 1), torch.randn_like(points)
        seen = (0.5 * torch.pi * time).cos() * points + (0.5 * torch.pi * time).sin() * noise
        return F.mse_loss(net(torch.cat([seen, time], 1)), noise)

    return Program(Learner(mlp(3, 64, 64, 2, act=nn.SiLU), loss, adam(2e-3)), batches(ring(), size=64))


@recipe
def policy_gradient() -> Program:
    """REINFORCE on a contextual bandit: the loss has no minimum and changes sign."""

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        choice = torch.distributions.Categorical(logits=net(x))
        action = choice.sample()
        reward = (action == y).float() + 0.3 * torch.randn(len(y))
        return -(choice.log_prob(action) * (reward - reward.mean())).mean()

    return Program(Learner(mlp(2, 32, 2), loss, adam(3e-3)), batches(*moons(), size=16))


@recipe
def q_learning() -> Program:
    """Values that grow for hundreds of steps, with a slow target network: the loss increases meanwhile."""
    net = mlp(4, 64, 2)
    slow = copy.deepcopy(net).requires_grad_(False)
    state = torch.randn(2048, 4, generator=generator(43))
    following = 0.9 * state + 0.3 * torch.randn(2048, 4, generator=generator(44))
    reward = 1 + state[:, :1].tanh()

    def loss(net: nn.Module, state: Tensor, following: Tensor, reward: Tensor) -> Tensor:
        for old, new in zip(slow.parameters(), net.parameters(), strict=True):
            old.data.lerp_(new.detach(), 0.01)
        target = reward + 0.95 * slow(following).max(1, keepdim=True).values
        return F.smooth_l1_loss(net(state)[:, :1], target)

    return Program(Learner(net, loss, adam(1e-3)), batches(state, following, reward, size=64))


class GAN(pl.LightningModule):
    """Generator and critic with an optimizer each, in manual optimization.

    Args:
        critic_lr: The critic's learning rate; the generator's is 1e-3.
        saturating: Whether the generator minimizes log(1 - D), as in the first GAN, instead of maximizing log(D).
    """

    def __init__(self, critic_lr: float = 1e-3, saturating: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic_lr, self.saturating = critic_lr, saturating
        self.generator, self.critic = mlp(8, 64, 64, 2), mlp(2, 64, 64, 1, act=partial(nn.LeakyReLU, 0.2))  # type: ignore[arg-type]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (points,) = batch
        generator_step, critic_step = self.optimizers()  # type: ignore[misc]
        fake = self.generator(torch.randn(len(points), 8))
        loss = F.softplus(-self.critic(points)).mean() + F.softplus(self.critic(fake.detach())).mean()
        critic_step.zero_grad()
        self.manual_backward(loss)
        critic_step.step()
        generator_step.zero_grad()
        judged = self.critic(fake)
        self.manual_backward(-F.softplus(judged).mean() if self.saturating else F.softplus(-judged).mean())
        generator_step.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        nets = ((self.generator, 1e-3), (self.critic, self.critic_lr))
        return [torch.optim.Adam(net.parameters(), lr, betas=(0.5, 0.99)) for net, lr in nets]


@recipe
def gan() -> Program:
    return Program(GAN(), batches(ring(), size=64))
