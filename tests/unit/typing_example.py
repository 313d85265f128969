"""What type checkers make of tasks; checked by test_typing.py, never run.

Lines with ``type: ignore`` must be rejected for the reason given there (an ignore that is
not needed is an error), all others accepted.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import datetime
from typing import Any, assert_type

from zmqtasks import (
    App,
    AsyncResult,
    GroupResult,
    ResultSet,
    Signature,
    Task,
    chain,
    group,
    shared_task,
)

app = App("shop", mesh="garden")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True, queue="slow")
def bound(self: Task[Any, Any], name: str) -> list[str]:
    return [self.name, name]


@app.task(name="other", attributes={"limit": 3})
def keyword_only(*, flag: bool) -> str:
    return str(flag)


@app.task
async def later(x: float) -> float:
    return x


@app.task(durability="disk", idempotent=False)
def pay(amount: int) -> bool:
    return amount > 0


@shared_task
def shared(x: str) -> bytes:
    return x.encode()


assert_type(add(1, 2), int)
assert_type(add.delay(1, y=2), AsyncResult[int])
assert_type(add.delay(1).get(timeout=5), int)
assert_type(add.apply_async((1,), {"y": 2}, queue="fast", require_worker=2.0), AsyncResult[int])
assert_type(add.delay_many([(1, 2), (3, 4)]), ResultSet[int])
assert_type(add.delay_many({"x": i} for i in range(3)).get(), list[int])
assert_type(add.delay_many([(1,)])[0].get(), int)
assert_type(add.s(1), Signature[int])
assert_type(add.s(1).delay(2), AsyncResult[int])
assert_type(add.si(1, y=2).set(countdown=3).delay().get(), int)
assert_type(group(add.s(i) for i in range(3)).delay(), GroupResult[int])
assert_type(~group(add.s(1), add.s(2)), list[int])
assert_type(add.map([1, 2]).delay().get(), list[int])
assert_type(add.chunks([(1, 2)], 1)().get(), list[list[int]])
add.si("a")  # type: ignore[arg-type]
assert_type(chain(add.s(1), add.s(2)).delay(), AsyncResult[Any])
assert_type((add.s(1) | bound.s()).delay(), AsyncResult[Any])
result, results = add.delay(1), group(add.s(i) for i in range(3)).delay()
assert_type(result.result, int | Exception | None)
assert_type(result.date_done, datetime | None)
assert_type(result.args, list[Any] | None)
assert_type(result.maybe_throw(), int)
assert_type(result.then(lambda found: found.get()), AsyncResult[int])
assert_type(result.look().state, str)
assert_type(results[0], AsyncResult[int])
assert_type(results.results, list[AsyncResult[int]])
assert_type(results.join(timeout=5, callback=lambda task_id, value: value + 1), list[int])
assert_type(results.then(lambda found: found.get()), GroupResult[int])
assert_type(ResultSet([result, result]), ResultSet[int])
assert_type(GroupResult.restore("id"), GroupResult[Any] | None)
for value in results.iterate():
    assert_type(value, int)
result.then(print, on_error="print")  # type: ignore[arg-type]
results.add(bound.delay("a"))  # type: ignore[arg-type]
results.join(timeout="5")  # type: ignore[arg-type]
result.get(callback=lambda value: value)  # type: ignore[arg-type,misc]
assert_type(bound.delay("a").get(), list[str])
assert_type(bound("a"), list[str])
assert_type(keyword_only.delay(flag=True).get(), str)
assert_type(pay.delay(3).get(), bool)
assert_type(pay.apply_async((3,), durability="memory", idempotency_key="k"), AsyncResult[bool])
assert_type(pay.apply_async((3,), durability=None, idempotency_key=None), AsyncResult[bool])
assert_type(later.delay(1.5).get(), float)
made: Coroutine[Any, Any, float] = later(1.5)
assert_type(shared.delay("x").get(), bytes)
assert_type(app.send_task("x", (1,)).get(), Any)
for handle in add.delay_many([(1,)]):
    assert_type(handle, AsyncResult[int])
for position, handle in add.delay_many([(1,)]).as_completed():
    assert_type(position, int)
    assert_type(handle.get(), int)


async def coroutine() -> None:
    assert_type(await add.delay(1), int)
    assert_type(await (await add.adelay(1, 2)), int)
    assert_type(await add.delay(1).aget(timeout=5), int)
    assert_type(await (await add.adelay_many([(1,)])), list[int])
    await add.adelay("x")  # type: ignore[arg-type]
    async for value in results.iterate(timeout=5):
        assert_type(value, int)
    async for handle in results:
        assert_type(handle, AsyncResult[int])
    async for position, handle in results.as_completed():
        assert_type((position, handle), tuple[int, AsyncResult[int]])
    assert_type(await results, list[int])
    assert_type(await result.aget(revoke_on_cancel="terminate"), int)
    assert_type((await result.alook()).worker, str | None)
    assert_type(await GroupResult.arestore("id"), GroupResult[Any] | None)
    await result.aget(revoke_on_cancel="kill")  # type: ignore[arg-type]


add.delay("x")  # type: ignore[arg-type]
add.delay(1, z=1)  # type: ignore[call-arg]
add.delay()  # type: ignore[call-arg]
add(x="1")  # type: ignore[arg-type]
bound.delay()  # type: ignore[call-arg]
bound.delay(1)  # type: ignore[arg-type]
keyword_only.delay(True)  # type: ignore[call-arg]
shared.delay(1)  # type: ignore[arg-type]
add.apply_async((1,), quee="x")  # type: ignore[call-arg]
add.apply_async((1,), countdown="3")  # type: ignore[arg-type]
add.apply_async((1,), tags="cuda")  # type: ignore[arg-type]
add.apply_async((1,), delivery="exactly_once")  # type: ignore[arg-type]
add.apply_async((1,), durability="paper")  # type: ignore[arg-type]
add.apply_async((1,), idempotency_key=17)  # type: ignore[arg-type]
app.send_task("x", durability="paper")  # type: ignore[arg-type]
app.task(idempotent="no")  # type: ignore[call-overload]
app.task(durability="paper")  # type: ignore[call-overload]
app.task(autoretry_for=(ValueError, OSError), max_retries=None, tags=["cuda"])
app.task(autoretry_for="ValueError")  # type: ignore[arg-type]
add.delay_many([1, 2])  # type: ignore[list-item]
number: str = add.delay(1).get()  # type: ignore[assignment]

app.task(quee="x")  # type: ignore[call-overload]
