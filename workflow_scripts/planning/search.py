"""The smallest set of nodes that must keep a higher precision for a criterion to be met."""

import math

EVALUATIONS = 64  # verdicts at most: each is a pass over the select split


class Search:
    """A search for the cheapest set: groups in the order of their effect for their cost, then single nodes of them.

    verdict_of: function (frozenset of node names) -> planning.criterion.verdict; costs: planning.node_groups.Costs.
    """

    def __init__(self, verdict_of, costs, forced=()):
        self.forced, self.costs = frozenset(forced), costs
        self._verdict_of, self._verdicts = verdict_of, {}
        self.margins = {}

    def verdict(self, names):
        """Return the verdict with `forced` and some more nodes in the higher precision."""
        kept = self.forced | frozenset(names)
        if kept not in self._verdicts:
            self._verdicts[kept] = self._verdict_of(kept)
        return self._verdicts[kept]

    def ordered(self, effects, members):
        """Return names of groups by effect per cost, the largest first; members: {group: [node]}."""

        def worth(name):
            effect = math.inf if effects[name] is None else effects[name]
            return effect / self.costs.more(self.forced, members[name])

        return sorted(members, key=lambda name: (-worth(name), name))

    def smallest(self, order, members):
        """Return the groups of `order` that are needed, or None where not even all of them meet the criterion.

        The shortest beginning of the order that meets it, then without those groups that can be left out of it.
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
        """Return the groups that are left when all that can go are gone, the least worth first."""
        kept, pending = list(order), [list(reversed(order))]
        while pending:
            part = pending.pop()
            rest = [name for name in kept if name not in part]
            found = (
                self.verdict(_union(rest, members))
                if len(self._verdicts) < EVALUATIONS
                else {"met": False, "slack": None}
            )
            if found["met"]:
                kept = rest
            elif len(part) == 1:
                self.margins[part[0]] = found["slack"]
            else:
                pending += [part[len(part) // 2 :], part[: len(part) // 2]]
        return kept

    def best(self):
        """Return the set with the most slack of all that were looked at, the cheapest of several."""
        return min(
            self._verdicts, key=lambda names: (-self._verdicts[names]["slack"], self.costs.of(names), sorted(names))
        )


def _union(groups, members):
    return {name for group in groups for name in members[group]}
