"""Folding: who reads a layer's output is seen whatever reads it, and a folded network is held to the unfolded one."""

import json

import pytest
import torch
import torch.nn.functional as F
from timm import layers
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import families
from core.files import UserError
from model import deploy, equivalence

SIZE, WIDTH = 12, 8


class Network(nn.Module):
    """A convolution, a BatchNorm and a head; what is done with them is given: function(network, images) -> features."""

    size = SIZE

    def __init__(self, compute, conv=None, norm=None, **parts):
        super().__init__()
        self.conv = conv or nn.Conv2d(3, WIDTH, 3, padding=1)
        self.bn = norm or nn.BatchNorm2d(WIDTH)
        for name, part in parts.items():
            setattr(self, name, part)
        self.compute, self.head = compute, nn.LazyLinear(5)

    def forward(self, x):
        return self.head(self.compute(self, x).flatten(1))


class Shifted(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


class OnlyInTraining(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) if self.training else x


def shared_weight(network):
    network.other.weight = network.conv.weight
    return network


def hooked(network):
    network.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    return network


def twice_named(network):
    network.alias = network.bn
    return network


@torch.jit.script
def scripted(a, b):
    return a + 2 * b


def in_place(n, x):
    return n.bn(n.conv(x).relu_())


def after_in_place(n, x):
    y = n.bn(n.conv(x))
    return y.relu_() + 1


def functional(n, x):
    return F.batch_norm(n.conv(x), n.bn.running_mean, n.bn.running_var, n.bn.weight, n.bn.bias)


def tokens(n, x):
    return n.bn(n.conv(x.flatten(2).transpose(1, 2)).flatten(0, 1))


def channels_last(n, x):
    return n.bn(n.conv(x.flatten(2).transpose(1, 2)).transpose(1, 2))


def plain(n, x):
    return n.bn(n.conv(x))


def kind(left, compute=plain, change=lambda network: network, **parts):
    """Return a kind of network: BatchNorms that stay, what is computed, what is done to it, what makes its parts."""
    return left, compute, change, parts


def conv(*arguments, **options):
    return lambda: nn.Conv2d(*(arguments or (3, WIDTH, 3)), **options)


def of(part, *arguments):
    return lambda: part(*(arguments or (WIDTH,)))


OTHER = {"other": conv(padding=1)}
LINEAR = {"conv": of(nn.Linear, 3, WIDTH), "norm": of(nn.BatchNorm1d)}
KINDS = {
    "plain": kind(0),
    "grouped": kind(0, lambda n, x: n.bn(n.conv(n.stem(x))), stem=conv(3, 4, 1), conv=conv(4, 8, 3, groups=4)),
    "padded by reflection": kind(0, conv=conv(padding=1, padding_mode="reflect")),
    "without bias, strided, dilated": kind(0, conv=conv(stride=2, dilation=2, bias=False)),
    "transposed convolution": kind(1, conv=of(nn.ConvTranspose2d, 3, WIDTH, 3)),
    "one dimension": kind(
        1, lambda n, x: n.bn(n.conv(x.flatten(2))), conv=of(nn.Conv1d, 3, WIDTH, 3), norm=of(nn.BatchNorm1d)
    ),
    "standardised weights": kind(1, conv=of(layers.ScaledStdConv2d, 3, WIDTH, 3)),
    "padded as TensorFlow does": kind(1, conv=of(layers.Conv2dSame, 3, WIDTH, 3, 2)),
    "weight_norm": kind(1, conv=lambda: nn.utils.weight_norm(conv()())),
    "parametrized": kind(1, conv=lambda: nn.utils.parametrizations.weight_norm(conv()())),
    "no affine": kind(0, norm=lambda: nn.BatchNorm2d(WIDTH, affine=False)),
    "no statistics": kind(1, norm=lambda: nn.BatchNorm2d(WIDTH, track_running_stats=False)),
    "SyncBatchNorm": kind(0, norm=of(nn.SyncBatchNorm)),
    "with an activation": kind(0, norm=of(layers.BatchNormAct2d)),
    "frozen": kind(0, norm=of(layers.FrozenBatchNormAct2d)),  # not torch's BatchNorm: not folded
    "a class that does more": kind(1, norm=of(Shifted)),
    "a class that branches on training": kind(1, norm=of(OnlyInTraining)),
    "GroupNorm": kind(0, norm=of(nn.GroupNorm, 2, WIDTH)),
    "dropped paths between": kind(0, lambda n, x: n.bn(n.drop(n.conv(x))), drop=of(layers.DropPath, 0.5)),
    "two names": kind(0, change=twice_named),
    "half precision": kind(0, change=lambda network: network.half()),
    "linear layer on tokens": kind(0, tokens, **LINEAR),
    "linear layer, channels moved": kind(0, channels_last, **LINEAR),
    "the weight is read elsewhere": kind(1, lambda n, x: n.bn(n.conv(x)) + n.conv.weight.sum()),
    "the output is stacked": kind(1, lambda n, x: torch.stack([(y := n.conv(x)), n.bn(y)]).sum(0)),
    "the output is given": kind(1, lambda n, x: (y := n.conv(x)).view_as(y) + n.bn(y)),
    "a view is read": kind(1, lambda n, x: n.bn(y := n.conv(x)).flatten(1) + y.flatten(1)[:, :1]),
    "detached and read": kind(1, lambda n, x: n.bn(y := n.conv(x)) + y.detach()),
    "TorchScript reads": kind(1, lambda n, x: scripted(n.bn(y := n.conv(x)), y)),
    "changed in place before": kind(1, in_place),
    "changed in place after": kind(0, after_in_place),
    "functional BatchNorm": kind(1, functional),
    "called by forward": kind(1, lambda n, x: n.bn.forward(n.conv(x))),
    "BatchNorm with two callers": kind(
        1, lambda n, x: n.bn(n.conv(x)) + n.bn(n.other(x)), **{"conv": conv(padding=1), **OTHER}
    ),
    "convolution with two callers": kind(1, lambda n, x: n.bn(n.conv(x)) + n.conv(2 * x)),
    "weight of two convolutions": kind(1, lambda n, x: n.bn(n.conv(x)) + n.other(x), shared_weight, **OTHER),
    "two BatchNorms read": kind(2, lambda n, x: n.bn(y := n.conv(x)) + n.other(y), other=of(nn.BatchNorm2d)),
    "another dimension of as many": kind(
        1, lambda n, x: n.bn(n.conv(x).transpose(1, 2)), conv=conv(3, SIZE, 3, padding=1), norm=of(nn.BatchNorm2d, SIZE)
    ),
    "a hook": kind(1, change=hooked),
}


def made(kind):
    """Return a kind of network with random weights and statistics, and the number of BatchNorms that stay."""
    left, compute, change, parts = KINDS[kind]
    torch.manual_seed(0)
    network = Network(compute, **{name: part() for name, part in parts.items()}).eval()
    network(noise())
    return change(families.randomized(network, noise())), left


def noise(count=8, size=SIZE):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def norms(network):
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


@torch.no_grad()
def apart(network, folded, images):
    expected = network(images)
    return ((folded(images) - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("kind", KINDS)
def test_batchnorm_is_folded_only_where_nothing_else_reads(kind):
    network, left = made(kind)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = deploy.fold(network, noise())
    assert apart(network.float(), folded, noise(3)) < 1e-5 and norms(folded) == left
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_folded_network_that_computes_something_else_is_refused_at_its_first_module():
    model = families.network("resnet18", 64)
    folded = deploy.fold(model, noise(size=64))
    folded.layer2[1].conv1.weight.data[0] *= 3
    with pytest.raises(UserError, match=r"folding BatchNorm changes .* first at layer2.1.bn1 \(BatchNorm2d\)"):
        moved = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        equivalence.check(model, folded, noise(size=64), moved, lambda: folded.double() and model.double() and folded)


def test_rounding_that_a_network_amplifies_is_called_that():
    model = Network(lambda n, x: torch.sin(1e5 * n.bn(n.conv(x)))).eval()
    model(noise())
    with pytest.raises(UserError, match="float32 rounding alone changes the network's logits of 8 images by"):
        deploy.fold(families.randomized(model, noise()), noise())


def test_a_network_that_reads_a_batchnorm_that_was_folded_is_refused():
    model = Network(lambda n, x: n.bn(n.conv(x)) * n.bn.eps).eval()
    model(noise())
    with pytest.raises(UserError, match=r"the folded network does not run \(AttributeError: .*eps.*use another"):
        deploy.fold(families.randomized(model, noise()), noise())


def test_a_size_that_the_network_cannot_take_names_the_key():
    model = families.network("efficientformer_l1", 224)
    with pytest.raises(UserError, match="cannot take images of size 96 .*correct `size`"):
        deploy.fold(model, noise(size=96))


def test_weights_that_give_no_numbers_are_refused():
    model = families.network("resnet18", 64)
    model.fc.weight.data.fill_(3e38)
    with pytest.raises(UserError, match="own logits of .* images are not finite"):
        deploy.fold(model, noise(size=64))


@pytest.mark.parametrize("name", families.FAST)
def test_networks(name):
    check_network(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in families.NETWORKS if name not in families.FAST])
def test_networks_of_every_family(name):
    check_network(name)


def check_network(name):
    """A network with random BatchNorm statistics computes the same when folded; one that does not is refused."""
    size = families.NETWORKS[name]
    model = families.network(name, size)
    try:
        folded = deploy.fold(model, noise(size=size))
    except UserError as refusal:
        assert name in families.REFUSED and families.REFUSED[name] in str(refusal)
        return
    found = {"error": apart(model, folded, noise(4, size)), "norms": norms(model), "left": norms(folded)}
    print(name, json.dumps(found))
    assert found["error"] <= 1e-4
