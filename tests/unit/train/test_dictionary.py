import pytest
import torch

from atlas.errors import BadSetting
from ingest.train.dictionary import Dictionary, Jump, Settings

N, D_IN, D_OUT, F = 6, 5, 4, 7


def network(activation: str, l0: float = 2.0) -> Dictionary:
    torch.manual_seed(1)
    net = Dictionary(Settings(activation=activation, features=F, l0=l0), D_IN, D_OUT)
    with torch.no_grad():
        net.w_dec.normal_()
        net.b_enc.normal_()
        net.b_dec.normal_()
    return net


def test_relu_keeps_what_is_positive():
    net, x = network("relu"), torch.randn(N, D_IN)

    a, _ = net.act(net.pre(x))

    torch.testing.assert_close(a, (x @ net.w_enc.T + net.b_enc).clamp(min=0))


def test_topk_keeps_the_k_largest_and_of_these_only_the_positive():
    net, x = network("topk", l0=3), torch.randn(N, D_IN)
    with torch.no_grad():
        net.b_enc.sub_(1.0)

    p = net.pre(x)
    a, _ = net.act(p)

    kth = p.sort(dim=1, descending=True).values[:, 2:3]
    torch.testing.assert_close(a, torch.where((p >= kth) & (p > 0), p, 0.0))
    assert (a > 0).sum(1).min() < 3


def test_jumprelu_keeps_what_lies_above_its_threshold_whole():
    net, x = network("jumprelu"), torch.randn(N, D_IN)

    p = net.pre(x)
    a, fires = net.act(p)

    torch.testing.assert_close(a, torch.where(p > 0.5, p, 0.0))
    assert torch.equal(fires, (p > 0.5).float())


def test_thresholds_learn_by_the_rectangle_of_the_paper():
    bandwidth = 0.4
    p = torch.tensor([[0.9], [1.1], [1.5]])
    theta = torch.tensor([1.0], requires_grad=True)

    (Jump.apply(p, theta, bandwidth)[0] * torch.tensor([[2.0], [3.0], [5.0]])).sum().backward()
    by_activation = theta.grad.clone()
    theta.grad = None
    Jump.apply(p, theta, bandwidth)[1].sum().backward()

    # -theta / bandwidth * sum of the gradients within half a bandwidth, and -1 / bandwidth for each that is counted
    torch.testing.assert_close(by_activation, torch.tensor([-1.0 / 0.4 * (2 + 3)]))
    torch.testing.assert_close(theta.grad, torch.tensor([-2 / 0.4]))


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_folding_changes_the_units_and_nothing_that_is_computed(activation):
    net, x = network(activation), 3.0 * torch.randn(N, D_IN)
    scale_in, scale_out = 3.0, 0.25

    tensors = net.folded(scale_in, scale_out)
    p = x @ tensors["W_enc"].T + tensors["b_enc"]
    a = p * (p > tensors.get("activation_function.threshold", torch.zeros(F)))
    y = a @ tensors["W_dec"] + tensors["b_dec"]

    expected = net.decode(net.act(net.pre(x / scale_in))[0]) * scale_out
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(tensors["W_dec"].norm(dim=1), torch.ones(F))


def test_at_the_start_every_feature_fires_at_the_wanted_rate():
    net = Dictionary(Settings(features=F, l0=0.7 * F / 7 + 1), D_IN, D_OUT)
    x, y = torch.randn(2000, D_IN), torch.randn(2000, D_OUT)

    net.begin(x, y)
    rates = (net.act(net.pre(x))[0] > 0).float().mean(0)

    torch.testing.assert_close(rates, torch.full((F,), 1.7 / F), atol=0.002, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"activation": "gelu"}, "none of relu, topk, jumprelu"),
        ({"features": 10, "l0": 11}, "between 1 and the 10 features"),
        ({"tokens": 10, "batch": 100}, "do not fill one batch"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(BadSetting, match=says):
        Settings(**wrong)


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_dead_features_begin_anew_where_the_output_is_badly_explained(activation):
    net = Dictionary(Settings(activation=activation, features=F, l0=1.0), D_IN, D_OUT)
    x = torch.randn(2000, D_IN)
    y = (x @ torch.randn(D_IN, 30)).relu() @ torch.randn(30, D_OUT)
    net.begin(x, y)
    dead = torch.tensor([2, 5])
    with torch.no_grad():
        net.b_enc[dead] = -100.0
        error = y - net.decode(net.act(net.pre(x))[0])
        net.replace(dead, x, error, torch.Generator().manual_seed(0))
        a = net.act(net.pre(x))[0]

    torch.testing.assert_close((a > 0).float().mean(0)[dead], torch.full((2,), 1 / F), atol=0.002, rtol=0)
    assert (y - net.decode(a)).square().sum() < error.square().sum()
