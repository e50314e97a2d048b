"""Which step of a visit begins next, on which GPUs; standard library alone, Python 3.8."""

TOGETHER = 6  # steps that share a GPU


class Gpus:
    """The GPUs of a host: which are free, and which have steps that share one."""

    def __init__(self, names):
        self.free, self.shared = list(names), {}

    def fit(self, step):
        """Return whether a step could begin now."""
        return step.gpus <= len(self.free) or (step.shares and self._with_room() is not None)

    def take(self, step):
        """Return the names of the GPUs that a step gets."""
        if not step.shares:
            taken, self.free = self.free[: step.gpus], self.free[step.gpus :]
            return taken
        name = self._with_room() or self.free.pop()
        self.shared[name] = self.shared.get(name, 0) + 1
        return [name]

    def give(self, step, names):
        """Take back what a step had."""
        if step.shares:
            self.shared[names[0]] -= 1
            names = names if not self.shared[names[0]] else []
        for name in names:
            self.shared.pop(name, None)
        self.free = sorted(self.free + names)

    def _with_room(self):
        return next((name for name, count in self.shared.items() if count < TOGETHER), None)


def choose(waiting, is_there, gpus, left):
    """Return the first waiting step whose needs are there, for which GPUs are free and seconds are left, or None."""
    fitting = (step for step in waiting if gpus.fit(step) and step.seconds <= left)
    return next((step for step in fitting if all(map(is_there, step.needs))), None)


def simulate(waiting, out, gpus, budget):
    """Yield (second of its begin, its end, its GPUs, step) as a visit would take the steps, by their estimates."""
    now, running, made = 0, [], set()
    while True:
        step = choose(waiting, lambda path: out / path in made, gpus, budget - now)
        if step:
            waiting.remove(step)
            running.append((now + step.seconds, step, gpus.take(step)))
            yield now, now + step.seconds, running[-1][2], step
        elif running:
            done = min(running, key=lambda entry: entry[0])
            running.remove(done)
            now, step, names = done
            gpus.give(step, names)
            made.update(out / path for path in step.made)
        else:
            return
