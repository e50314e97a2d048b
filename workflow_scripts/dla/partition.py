"""The subgraphs that an accelerator can take of a network: connected, and with no way out and back in.

A network is a list of nodes in topological order, of ONNX or of TensorRT. Standard library only, Python 3.8.
"""

import collections

# inputs, outputs: names of tensors; supported: by the accelerator; batch: nodes with unlike ones are never in one
# subgraph; weight: what it is worth to run it there; offered: whether it is meant to run there
Node = collections.namedtuple("Node", "name inputs outputs supported batch weight offered")


def candidates(nodes):
    """Return the maximal subgraphs of supported nodes as lists of positions, in topological order of their first nodes.

    Two adjacent ones are one where that leaves no cycle: what enters a subgraph may not depend on what leaves it.
    """
    graph = _Quotient(nodes)
    for position, node in enumerate(nodes):
        for before in graph.writers(node) if node.supported else ():
            if nodes[before].supported and nodes[before].batch == node.batch:
                graph.merge(before, position)
    found = collections.defaultdict(list)
    for position, node in enumerate(nodes):
        if node.supported:
            found[graph.group[position]].append(position)
    return sorted(found.values())


class _Quotient:
    """A network whose subgraphs are nodes: `group[position]` says which one a node is in."""

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
        """Make one subgraph of two nodes', unless something outside lies between them."""
        a, b = self.group[one], self.group[other]
        if a == b or self.reaches(a, b) or self.reaches(b, a):
            return
        for position in self.members.pop(b):
            self.group[position] = a
            self.members[a].append(position)

    def followers(self, group):
        return {self.group[after] for position in self.members[group] for after in self.behind[position]}

    def reaches(self, start, goal):
        """Return whether a way through other subgraphs leads from one to another."""
        pending, seen = list(self.followers(start) - {start, goal}), set()
        while pending:
            group = pending.pop()
            if group not in seen:
                seen.add(group)
                after = self.followers(group)
                if goal in after:
                    return True
                pending.extend(after - {start})
        return False


def loaded(nodes, found, limit):
    """Return the numbers of the subgraphs that TensorRT loads: those of most layers first, then in their order."""
    order = sorted(range(len(found)), key=lambda number: (-len(found[number]), number))
    return sorted(order[:limit])


def worthwhile(nodes, found, limit):
    """Return the numbers of the subgraphs that are worth loading: those of the most weight, none without any."""
    weights = [sum(nodes[position].weight for position in positions) for positions in found]
    order = sorted(range(len(found)), key=lambda number: (-weights[number], number))
    return sorted(number for number in order[:limit] if weights[number])
