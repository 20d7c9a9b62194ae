"""One layer's transcoder while it is trained.

``p = x @ W_enc.T + b_enc``, ``a = activation(p)``, ``y = a @ W_dec + b_dec``; rows of ``W_enc`` and ``W_dec`` are
features.

============  =====================  ==================================================================================
activation    ``a``                  kept sparse by
============  =====================  ==================================================================================
``relu``      ``relu(p)``            ``tanh(4 a |w_dec|)``, the saturating penalty of Anthropic's cross-layer
                                     transcoders (https://transformer-circuits.pub/2025/attribution-graphs/methods.html)
``topk``      ``relu(topk(p, k))``   its k (Gao et al. 2024, https://arxiv.org/abs/2406.04093)
``jumprelu``  ``p * (p > theta)``    the number of active features, with straight-through gradients for theta
                                     (Rajamanoharan et al. 2024, https://arxiv.org/abs/2407.14435)
============  =====================  ==================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atlas.errors import BadSetting

Activation = Literal["relu", "topk", "jumprelu"]

THETA = torch.tensor(0.5)
"""JumpReLU's first threshold, in standard deviations of a pre-activation."""


@dataclass(frozen=True)
class Settings:
    """What is trained, and how. Raises :class:`BadSetting` for what makes no sense."""

    activation: Activation = "jumprelu"
    features: int = 1024
    l0: float = 24.0
    """Features to be active at a position, on average; for ``topk`` its k."""
    tokens: int = 4_000_000
    """Positions seen in training, repeats included."""
    batch: int = 1024
    lr: float = 1e-2
    cap: float = 0.08
    """Share of positions beyond which a feature pays more for each firing; 1 for no such price."""
    bandwidth: float = 0.2
    """Width of the band around theta in which JumpReLU's straight-through gradient counts, in pre-activations."""
    dead_after: int = 30_000
    """Positions without firing after which a feature counts as dead in training."""
    replace_every: int = 250
    """Steps after which dead features begin anew, in the first six tenths of training."""
    revive: float = 1 / 16
    """Weight of the loss that teaches dead features what the live ones miss."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.activation not in ("relu", "topk", "jumprelu"):
            raise BadSetting(f"activation {self.activation!r} is none of relu, topk, jumprelu.")
        if not 1 <= self.l0 <= self.features:
            raise BadSetting(f"l0 (or k) is {self.l0:g}; it must lie between 1 and the {self.features} features.")
        if self.tokens < self.batch or self.batch < 1:
            raise BadSetting(f"{self.tokens} tokens do not fill one batch of {self.batch}.")


class Jump(torch.autograd.Function):
    """``(p * (p > theta), p > theta)``, with straight-through gradients near theta.

    The kernel is a rectangle of width ``bandwidth`` around theta. Counting what fires moves theta, as in the paper,
    and the pre-activation too, without which encoders drift away from their thresholds faster than these can follow.
    """

    @staticmethod
    def forward(ctx, p: Tensor, theta: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        fires = p > theta
        ctx.save_for_backward(p, theta, fires)
        ctx.bandwidth = bandwidth
        return p * fires, fires.to(p.dtype)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_a, grad_fires = grads
        p, theta, fires = ctx.saved_tensors
        near = (p - theta).abs() < ctx.bandwidth / 2
        count = near * grad_fires / ctx.bandwidth
        grad_theta = -(near * grad_a).sum(0) * theta / ctx.bandwidth - count.sum(0)
        return grad_a * fires + count, grad_theta, None


class Dictionary(nn.Module):
    """The parameters of one transcoder, on inputs and outputs scaled to unit variance."""

    def __init__(self, settings: Settings, d_in: int, d_out: int) -> None:
        super().__init__()
        self.settings = settings
        n = settings.features
        self.w_enc = nn.Parameter(torch.randn(n, d_in) / d_in**0.5)
        self.b_enc = nn.Parameter(torch.zeros(n))
        self.w_dec = nn.Parameter(torch.zeros(n, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        if settings.activation == "jumprelu":
            self.log_theta = nn.Parameter(THETA.log().repeat(n))

    @property
    def theta(self) -> Float[Tensor, " n_features"]:
        """JumpReLU's thresholds, always positive."""
        return self.log_theta.exp()

    def pre(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch n_features"]:
        """Pre-activations."""
        return torch.addmm(self.b_enc, x, self.w_enc.T)

    def act(
        self, p: Float[Tensor, "batch n_features"]
    ) -> tuple[Float[Tensor, "batch n_features"], Float[Tensor, "batch n_features"]]:
        """Activations, and what the sparsity penalty counts at each position (before the price of each feature)."""
        if self.settings.activation == "jumprelu":
            return Jump.apply(p, self.theta, self.settings.bandwidth)
        if self.settings.activation == "topk":
            best = p.topk(int(self.settings.l0), dim=-1, sorted=False)
            a = torch.zeros_like(p).scatter_(-1, best.indices, best.values.relu())
            return a, a * self.w_dec.detach().norm(dim=1)
        a = p.relu()
        return a, torch.tanh(4 * a * self.w_dec.norm(dim=1))

    def decode(self, a: Float[Tensor, "batch n_features"]) -> Float[Tensor, "batch d_out"]:
        """The output for given activations."""
        return torch.addmm(self.b_dec, a, self.w_dec)

    @torch.no_grad()
    def aim(
        self, which: Int[Tensor, " n_chosen"], at: Float[Tensor, "n_chosen d_in"], x: Float[Tensor, "n d_in"]
    ) -> None:
        """Point the encoders of features ``which`` at the inputs ``at``; each fires at the wanted rate on ``x``."""
        rows = at - x.mean(0)
        rows /= (x @ rows.T).std(0)[:, None].clamp_min(1e-6)
        often = max(1, int(len(x) * min(0.5, self.settings.l0 / len(self.b_enc))))
        edge = (x @ rows.T).T.topk(often).values[:, -1]
        if self.settings.activation == "jumprelu":
            self.log_theta[which] = THETA.log()
            edge = edge - THETA
        self.w_enc[which] = rows
        self.b_enc[which] = -edge

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]) -> None:
        """Start from data: encoders are the inputs of random positions, the decoder is the ridge regression of the
        outputs on the activations that come of it.
        """
        n = len(self.b_enc)
        chosen = torch.randint(len(x), (n,), generator=torch.Generator().manual_seed(self.settings.seed))
        self.aim(torch.arange(n), x[chosen], x)
        a, _ = self.act(self.pre(x))
        centred = a - a.mean(0)
        gram = centred.T @ centred + 0.01 * self.settings.l0 / n * len(x) * torch.eye(n)
        self.w_dec.copy_(torch.linalg.solve(gram, centred.T @ (y - y.mean(0))))
        self.b_dec.copy_(y.mean(0) - a.mean(0) @ self.w_dec)

    @torch.no_grad()
    def replace(
        self,
        which: Int[Tensor, " n_chosen"],
        x: Float[Tensor, "batch d_in"],
        error: Float[Tensor, "batch d_out"],
        generator: torch.Generator,
    ) -> None:
        """Give features ``which`` a new life at inputs that are badly explained, chosen in proportion to their
        squared error (Bricken et al. 2023, https://transformer-circuits.pub/2023/monosemantic-features). Each decoder
        is the regression of the error on that feature alone.
        """
        odds = error.square().sum(1).cpu()
        chosen = torch.multinomial(odds, len(which), replacement=True, generator=generator).to(x.device)
        self.aim(which, x[chosen], x)
        a, _ = self.act(self.pre(x))
        a = a[:, which]
        self.w_dec[which] = a.T @ error / (a.square().sum(0)[:, None] + 1.0)

    @torch.no_grad()
    def folded(self, scale_in: float, scale_out: float) -> dict[str, Tensor]:
        """The parameters for inputs and outputs in the model's own units, on the CPU in float32.

        Every decoder row is given unit length, its length moved into the encoder: activations are then what the feature
        adds to the stream. A feature whose decoder is zero keeps its encoder.
        """
        length = self.w_dec.norm(dim=1)
        length = torch.where(length > 0, length, torch.ones_like(length)) * scale_out
        folded = {
            "W_enc": self.w_enc * (length / scale_in)[:, None],
            "b_enc": self.b_enc * length,
            "W_dec": self.w_dec * (scale_out / length)[:, None],
            "b_dec": self.b_dec * scale_out,
        }
        if self.settings.activation == "jumprelu":
            folded["activation_function.threshold"] = self.theta * length
        return {name: value.cpu().contiguous() for name, value in folded.items()}
