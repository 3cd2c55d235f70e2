"""Memory is drawn in turn, given back once, and never waited for too long."""

import asyncio

import pytest

from molia.base.errors import Busy
from molia.node.budget import Budget


async def test_what_is_drawn_is_not_free_until_released() -> None:
    budget = Budget(100, wait_s=1.0)
    assert await budget.draw(60) == 60
    assert not budget.draw_nowait(41)
    assert budget.draw_nowait(40)
    budget.release(60)
    assert budget.used_bytes == 40


async def test_waiting_draws_are_served_in_their_order() -> None:
    budget = Budget(100, wait_s=5.0)
    await budget.draw(100)
    order: list[str] = []

    async def draw(name: str, size: int) -> None:
        await budget.draw(size)
        order.append(name)

    large = asyncio.create_task(draw("large", 90))
    await asyncio.sleep(0)
    small = asyncio.create_task(draw("small", 10))
    await asyncio.sleep(0)
    budget.release(50)
    await asyncio.sleep(0)
    assert order == [], "the small one does not overtake the large one"
    budget.release(50)
    await asyncio.gather(large, small)
    assert order == ["large", "small"]


async def test_a_draw_that_waits_too_long_is_refused_and_costs_nothing() -> None:
    budget = Budget(10, wait_s=0.01)
    await budget.draw(10)
    with pytest.raises(Busy):
        await budget.draw(1)
    budget.release(10)
    assert (budget.used_bytes, budget.waiting_count) == (0, 0)


async def test_a_cancelled_draw_lets_the_next_one_through() -> None:
    budget = Budget(10, wait_s=5.0)
    await budget.draw(10)
    first = asyncio.create_task(budget.draw(10))
    second = asyncio.create_task(budget.draw(5))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    budget.release(10)
    assert await second == 5
    assert budget.used_bytes == 5


async def test_a_draw_above_the_whole_budget_takes_all_of_it() -> None:
    budget = Budget(10, wait_s=1.0)
    assert await budget.draw(1000) == 10
    budget.release(10)
    assert budget.used_bytes == 0
