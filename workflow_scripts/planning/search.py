"""Search for the smallest set of nodes that must keep a higher precision for a criterion to be met."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from planning.node_groups import Costs

EVALUATIONS = 64  # limit of verdicts: each is a pass over the select split
UNKNOWN = {"met": False, "slack": None}  # in place of a verdict beyond the limit

Members = Mapping[str, Sequence[str]]  # {group: [node]}


class Search:
    """A search for the cheapest set: groups in the order of effect per cost, then single nodes of them.

    verdict_of: function (frozenset of node names) -> planning.criterion.verdict; forced: nodes in every set.
    """

    def __init__(self, verdict_of: Callable[[frozenset], dict], costs: Costs, forced: Iterable[str] = ()):
        self.forced, self.costs = frozenset(forced), costs
        self._verdict_of, self._verdicts = verdict_of, {}
        self.margins = {}

    def verdict(self, names: Collection[str]) -> dict:
        """Return the verdict with `forced` and more nodes in the higher precision."""
        nodes = self.forced | frozenset(names)
        if nodes not in self._verdicts:
            self._verdicts[nodes] = self._verdict_of(nodes)
        return self._verdicts[nodes]

    def ordered(self, effects: Mapping[str, float | None], members: Members) -> list[str]:
        """Return the groups by effect per cost, the largest first; an effect of None is infinite."""
        costs = {name: self.costs.more(self.forced, nodes) for name, nodes in members.items()}
        worth = {n: (math.inf if (effect := effects[n]) is None else effect) / cost for n, cost in costs.items()}
        return sorted(members, key=lambda name: (-worth[name], name))

    def smallest(self, order: Sequence[str], members: Members) -> list[str] | None:
        """Return the groups of `order` that are needed, or None if not even all of them meet the criterion.

        Bisection finds the shortest prefix of the order that meets it; then the groups that it can do without go.
        """
        if self.verdict(())["met"]:
            return []
        if not self.verdict(_union(order, members))["met"]:
            return None
        few, many = 0, len(order)
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if self.verdict(_union(order[:middle], members))["met"] else (middle, many)
        return self._without_idle(order[:many], members)

    def _without_idle(self, order, members):
        """Return the groups that remain when all that can go are gone, tried in halves from the least worth."""
        needed, pending = list(order), [list(reversed(order))]
        while pending:
            part = pending.pop()
            rest = [name for name in needed if name not in part]
            verdict = self.verdict(_union(rest, members)) if len(self._verdicts) < EVALUATIONS else UNKNOWN
            if verdict["met"]:
                needed = rest
            elif len(part) == 1:
                self.margins[part[0]] = verdict["slack"]
            else:
                pending += [part[len(part) // 2 :], part[: len(part) // 2]]
        return needed

    def best(self) -> frozenset:
        """Return the evaluated set with the most slack, the cheapest of several."""
        verdicts = self._verdicts
        return min(verdicts, key=lambda names: (-verdicts[names]["slack"], self.costs.of(names), sorted(names)))


def _union(groups, members):
    return {name for group in groups for name in members[group]}
