"""Groups of nodes that are judged together, and the cost of computing nodes in a higher precision."""

import math
import re
from collections.abc import Collection, Iterable, Mapping

import torch

from planning.simulate import Network

BLOCK = re.compile(r"stages\.\d+\.(?:blocks\.\d+|downsample)\.\w+|stem\.\w+")
PRODUCTS = ("conv", "linear", "attention")  # kinds of nodes with multiply-accumulates
TRAFFIC = 400  # multiply-accumulates in the time that one number is moved: H200 990 TFLOP/s and 4.8 TB/s, Xavier NX
# 6 TFLOP/s and 51 GB/s both do 350 to 420 of them in FP16 while they move the 6 bytes of a cast


def blocks(network: Network) -> dict[str, list[str]]:
    """Return {name: [node]} of consecutive nodes (attention, MLP, convolution); every node is in one of them.

    Nodes outside a block, and blocks without a product (activations, skip connections), join the block before.
    """
    groups = {}
    products = {_block(node) for node in network.nodes if node.kind in PRODUCTS}
    current = next((_block(node) for node in network.nodes if _block(node) in products), "all")
    for node in network.nodes:
        current = _block(node) if _block(node) in products else current
        groups.setdefault(current, []).append(node.name)
    return groups


def _block(node):
    block = BLOCK.match(node.module)
    return block.group() if block else node.module


def kinds(network: Network) -> dict[str, list[str]]:
    """Return {name: [node]} of the nodes of one operator, for operators with several."""
    groups = {}
    for node in network.nodes:
        groups.setdefault(f"every {node.op}", []).append(node.name)
    return {name: nodes for name, nodes in groups.items() if len(nodes) > 1}


class Costs:
    """Multiply-accumulates and moved numbers of a network's nodes for one image."""

    def __init__(self, network: Network, values: Mapping[str, torch.Tensor]):
        """Take the shapes from the activations of one image (`Network.tensors`)."""
        self.elements = {name: value.numel() for name, value in values.items()}
        shapes = {name: value.shape for name, value in [*network.constants.items(), *values.items()]}
        self.macs = {node.name: _macs(node, self.elements, shapes) for node in network.nodes}
        self._nodes = {node.name: node for node in network.nodes}
        self._writer = {name: node.name for node in network.nodes for name in node.outputs}
        self._readers = {}
        for node in network.nodes:
            for name, constant in zip(node.inputs, node.constant):
                if not constant:
                    self._readers.setdefault(name, set()).add(node.name)
        self._ends = {network.input, network.output}

    def of(self, names: Collection[str]) -> int:
        """Return the cost of a set of nodes in the higher precision, in multiply-accumulates an image.

        Their products run at half the rate, they write numbers of twice the width, and each tensor between them and
        the other nodes is converted (a reformat). The graph's input and output have the higher precision anyway.
        """
        written = sum(self.elements[output] for name in names for output in self._nodes[name].outputs)
        converted = sum(self.elements[name] for name in self.casts(names))
        return sum(self.macs[name] for name in names) + TRAFFIC * (written + converted)

    def casts(self, names: Collection[str]) -> list[str]:
        """Return the tensors that are converted between a set of nodes and the others."""
        return [name for name in self.elements if self._is_cast(name, names)]

    def _is_cast(self, tensor, names):
        high = tensor not in self._writer or self._writer[tensor] in names
        readers = {reader in names for reader in self._readers.get(tensor, ())}
        return (not high) in (readers | {True} if tensor in self._ends else readers)

    def more(self, names: Iterable[str], added: Iterable[str]) -> int:
        """Return the cost of adding nodes to a set, at least 1: where they join it, conversions go away."""
        return max(self.of(set(names) | set(added)) - self.of(set(names)), 1)


def _macs(node, elements, shapes):
    """Return the multiply-accumulates of a node for one image."""
    if node.kind not in PRODUCTS:
        return 0
    weight = shapes[node.inputs[1]]
    summed = math.prod(weight[1:]) if node.op == "Conv" else weight[-1 if node.attrs.get("transB") else -2]
    return elements[node.outputs[0]] * int(summed)
