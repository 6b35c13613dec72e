"""Gates under faults from a seed: lost answers, outages, kills. An auditor counts by itself."""

import random
from collections import Counter

import pytest

from tests.support.gates import Asked, Gate, World, make_key, make_limit, make_route
from tramontane.domain.spending.limits import LimitMeter
from tramontane.domain.spending.pricing import Prices, cost_nano
from tramontane.domain.spending.slices import Charge, period_of
from tramontane.gateway.admission.held import SHARE

PRICES = Prices(prompt_micro=1_000_000, completion_micro=3_000_000, request_micro=5)
REQUESTS, TOKENS, IN_FLIGHT = 40, 6_000, 7
BUDGETS_MICRO = (15_000, 150_000)  # one that runs out, one that does not

pytestmark = pytest.mark.slow


class Storm:
    """Gates that ask at random, and everything that was admitted."""

    def __init__(self, seed: int, *, outages: bool) -> None:
        self.chance = random.Random(seed)
        self.outages = outages
        self.budget_micro = BUDGETS_MICRO[seed % 2]
        self.limits = [
            make_limit(1, requests_per_minute_max=REQUESTS, requests_in_flight_max=IN_FLIGHT),
            make_limit(2, tokens_per_minute_max=TOKENS, budget_micro=self.budget_micro),
        ]
        self.world = World(*self.limits, delay_s=0.004)
        self.key = make_key(*self.limits)
        self.route = make_route(PRICES)
        self.gates: list[Gate] = []
        self.births = 0
        self.asked: list[Asked] = []
        self.running: list[Asked] = []
        self.unshipped: list[Charge] = []
        self.spent = 0
        self.most_running = 0
        self.windows: Counter[int] = Counter()
        self.tokens: Counter[int] = Counter()
        for _ in range(3):
            self.bear()

    def bear(self, *dead: str) -> None:
        self.births += 1
        gate = self.world.gate(f"g{self.births}", gateways=3)
        gate.settled.names = dead
        gate.admission.start()
        self.gates.append(gate)

    def step(self) -> None:
        chance, world = self.chance, self.world
        for _ in range(chance.choice((0, 0, 1, 1, 2, 9))):
            gate = chance.choice(self.gates)
            completion = chance.choice((10, 100, 400))
            self.asked.append(gate.ask(self.key, self.route, prompt=50, completion=completion))
        world.run(chance.uniform(0, 0.2))
        self.look()
        for item in [item for item in self.running if chance.random() < 0.15]:
            self.finish(item)
        if chance.random() < 0.3:
            self.ship()
        if chance.random() < 0.02:
            world.lose_replies = 1
        if self.outages and chance.random() < 0.01:
            world.is_up = not world.is_up
        if chance.random() < 0.004:
            self.kill(chance.choice(self.gates))

    def look(self) -> None:
        for item in [item for item in self.asked if not item.waits]:
            self.asked.remove(item)
            if item.is_in:
                self.running.append(item)
                self.windows[self.window(LimitMeter.REQUESTS)] += 1
        self.most_running = max(self.most_running, len(self.running))
        reserved = sum(self.most(item) for item in self.running)
        for gate in self.gates:
            self.look_at_windows(gate)
        assert self.spent + reserved <= self.budget_micro * 1_000

    def look_at_windows(self, gate: Gate) -> None:
        """What may be spent is of the control plane's window, and ends no later than it."""
        world = self.world
        for (limit_id, meter), held in gate.admission._slices.items():
            window = world.books.windows.get((limit_id, meter))
            if window is None or held.free <= 0 or held.window == SHARE or held.ends_at < world.now:
                continue
            assert held.window == window.number
            assert world.start_ms + (held.ends_at - 100) * 1_000 <= window.end_ms

    def window(self, meter: LimitMeter) -> int:
        return next(w.number for (_, m), w in self.world.books.windows.items() if m is meter)

    def most(self, item: Asked) -> int:
        return cost_nano(PRICES, item.prompt, item.completion)

    def finish(self, item: Asked, *, is_cut: bool = False) -> None:
        self.running.remove(item)
        used = (item.prompt, self.chance.randint(0, item.completion), 0)
        cost = cost_nano(PRICES, *used)
        self.spent += cost
        if not is_cut:
            item.end(used, cost)
        period = period_of(self.world.now_ms)
        self.unshipped.append(Charge("lim_2", item.gate.name, period, cost))

    def ship(self) -> None:
        if self.world.is_up:
            self.world.accept(tuple(self.unshipped))
            self.unshipped.clear()

    def kill(self, gate: Gate) -> None:
        """Kill it; its heir settles its books and tells so once they are shipped."""
        if not self.world.is_up:
            return
        self.gates.remove(gate)
        gate.line.is_up = False
        self.asked = [item for item in self.asked if item.gate is not gate]
        for item in [item for item in self.running if item.gate is gate]:
            self.finish(item, is_cut=True)
        self.ship()
        self.bear(gate.name)


@pytest.mark.parametrize("seed", range(4))
def test_no_limit_is_ever_exceeded(seed: int):
    storm = Storm(seed, outages=False)
    for _ in range(1_000):
        storm.step()
    assert max(storm.windows.values()) <= REQUESTS
    assert storm.most_running <= IN_FLIGHT
    if seed % 2:
        assert max(storm.windows.values()) == REQUESTS
    else:
        assert storm.spent > storm.budget_micro * 850


@pytest.mark.parametrize("seed", range(4))
def test_with_outages_a_budget_holds_and_the_rest_comes_back(seed: int):
    storm = Storm(seed, outages=True)
    for _ in range(1_000):
        storm.step()
    assert storm.most_running <= 2 * IN_FLIGHT
    storm.world.is_up = True
    for _ in range(4):
        for item in list(storm.running):
            storm.finish(item)
        storm.ship()
        storm.world.run(20)
        storm.look()
    books = storm.world.books
    held = {
        key: {name: amount for name, (_, amount) in holds.items() if amount}
        for key, holds in books.holds.items()
    }
    assert not any(held.values()), held
    assert sum(books.spent_nano.values()) == storm.spent
