"""Partition a network for an accelerator: into subgraphs that are connected and that no path leaves and re-enters.

A network is a list of nodes in topological order, of ONNX or of TensorRT. Standard library only, Python 3.8.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple


class Node(NamedTuple):
    """A node of a network, as the partition needs it."""

    name: str
    inputs: list[str]  # names of tensors
    outputs: list[str]
    supported: bool  # by the accelerator
    batch: int  # nodes of different batches are never in one subgraph
    weight: int  # worth of running it on the accelerator
    offered: bool  # whether it is meant to run there


def batch_of(shape: Sequence[int]) -> int:
    """Return the batch of a tensor on an accelerator: the product of all dimensions but the last three; N of [N, C]."""
    return math.prod(shape[:1] if len(shape) == 2 else shape[:-3])


def candidates(nodes: Sequence[Node]) -> list[list[int]]:
    """Return the maximal subgraphs of supported nodes as lists of positions, in topological order of their first nodes.

    Adjacent subgraphs merge if that makes no cycle: the input of a subgraph may not depend on its output.
    """
    graph = _Quotient(nodes)
    for position, node in enumerate(nodes):
        for before in graph.writers(node) if node.supported else ():
            if nodes[before].supported and nodes[before].batch == node.batch:
                graph.merge(before, position)
    groups = {graph.group[position] for position, node in enumerate(nodes) if node.supported}
    return sorted(sorted(graph.members[group]) for group in groups)


class _Quotient:
    """A network of subgraphs; group: the subgraph of each node, members: the nodes of each subgraph."""

    def __init__(self, nodes):
        self.written = {tensor: position for position, node in enumerate(nodes) for tensor in node.outputs}
        self.group = list(range(len(nodes)))
        self.members = {position: [position] for position in self.group}
        self.behind = collections.defaultdict(set)
        for position, node in enumerate(nodes):
            for before in self.writers(node):
                self.behind[before].add(position)

    def writers(self, node):
        """Return the positions of the nodes that write a node's inputs."""
        return sorted({self.written[tensor] for tensor in node.inputs if tensor in self.written})

    def merge(self, one, other):
        """Merge the subgraphs of two nodes, unless a path between them leads through another."""
        a, b = self.group[one], self.group[other]
        if a == b or self.reaches(a, b) or self.reaches(b, a):
            return
        for position in self.members.pop(b):
            self.group[position] = a
            self.members[a].append(position)

    def followers(self, group):
        """Return the subgraphs that read what a subgraph writes, which may include itself."""
        return {self.group[after] for position in self.members[group] for after in self.behind[position]}

    def reaches(self, start, goal):
        """Return whether a path through other subgraphs leads from one to another."""
        pending, visited = list(self.followers(start) - {start, goal}), set()
        while pending:
            group = pending.pop()
            if group not in visited:
                visited.add(group)
                after = self.followers(group)
                if goal in after:
                    return True
                pending.extend(after - {start})
        return False


def heaviest(weights: Sequence[int], limit: int) -> list[int]:
    """Return the numbers of the subgraphs to load: those of the largest weights but 0, the first of equals."""
    order = sorted(range(len(weights)), key=lambda number: -weights[number])
    return sorted(number for number in order[:limit] if weights[number])
