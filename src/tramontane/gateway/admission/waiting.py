"""Requests that wait for a slice: bounded, with a deadline, and served in turn by project.

Within a project the first to come is the first to be served. A request that has to wait for a
slice lets nobody behind it take from that slice, but those that need none of it pass by.
"""

from collections import deque
from collections.abc import Callable, Iterator

from tramontane.gateway.admission.held import Binding, Held
from tramontane.gateway.admission.ticket import Ticket, Waiter


class Waiting:
    """One request that waits. ``tokens`` and ``cost`` are the most that it can take."""

    __slots__ = ("binding", "cost", "deadline", "tokens", "waiter")

    def __init__(
        self, waiter: Waiter, binding: Binding, tokens: int, cost: int, deadline: float
    ) -> None:
        self.waiter = waiter
        self.binding = binding
        self.tokens = tokens
        self.cost = cost
        self.deadline = deadline


class Queue:
    """All requests that wait."""

    def __init__(self, total_max: int, project_max: int) -> None:
        self._total_max = total_max
        self._project_max = project_max
        self._by_project: dict[str, dict[Waiter, Waiting]] = {}
        self._projects: dict[Waiter, str] = {}
        self._turns: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._projects)

    def __iter__(self) -> Iterator[Waiting]:
        for waiting in list(self._by_project.values()):
            yield from list(waiting.values())

    def add(self, waiting: Waiting) -> bool:
        """Take a request in; False when there are too many."""
        project = waiting.binding.key.project_id
        mine = self._by_project.get(project)
        if len(self._projects) >= self._total_max:
            return False
        if mine is None:
            mine = self._by_project[project] = {}
            self._turns.append(project)
        elif len(mine) >= self._project_max:
            return False
        mine[waiting.waiter] = waiting
        self._projects[waiting.waiter] = project
        _count(waiting.binding, 1)
        return True

    def remove(self, waiter: Waiter) -> None:
        """Forget a request, if it waits."""
        project = self._projects.pop(waiter, None)
        if project is None:
            return
        mine = self._by_project[project]
        _count(mine.pop(waiter).binding, -1)
        if not mine:
            del self._by_project[project]
            self._turns.remove(project)

    def is_ahead(self, binding: Binding) -> bool:
        """Tell whether somebody waits for one of these slices already."""
        return any(held.waiting for held in binding.all)

    def rebind(self, waiting: Waiting, binding: Binding) -> None:
        """Let a request wait for other slices."""
        _count(waiting.binding, -1)
        waiting.binding = binding
        _count(binding, 1)

    def serve(self, take: Callable[[Waiting], Ticket | None]) -> list[tuple[Waiter, Ticket]]:
        """Take out and return those for whom ``take`` found room, one of each project in turn."""
        served: list[tuple[Waiter, Ticket]] = []
        blocked: set[Held] = set()
        lines = deque(iter(list(self._by_project[project].values())) for project in self._turns)
        self._turns.rotate(-1)  # another one begins next time
        while lines:
            line = lines.popleft()
            for waiting in line:
                if not blocked.isdisjoint(waiting.binding.all):
                    continue
                ticket = take(waiting)
                if ticket is not None:
                    served.append((waiting.waiter, ticket))
                    lines.append(line)
                    break
                lacking = waiting.binding.lacking(waiting.tokens, waiting.cost)
                if lacking is not None:
                    blocked.add(lacking)
        for waiter, _ in served:
            self.remove(waiter)
        return served


def _count(binding: Binding, by: int) -> None:
    for held in binding.all:
        held.waiting += by
