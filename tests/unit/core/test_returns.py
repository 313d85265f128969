"""What owners are told at the end of a turn."""

from __future__ import annotations

from tests.support.machines import OWNER, link_to, of, sent, task_id
from zmqtasks.core.effects import Send
from zmqtasks.core.returns import Returns
from zmqtasks.limits import BATCH_BYTES_MAX
from zmqtasks.wire.messages import Reject, Retry, RetryRecord, UpdateRecord, Updates

LINK = link_to(OWNER, "in")
OTHER = link_to(b"produce2", "in")


def update(number: int, at: int = -1, state: str = "", meta: bytes = b"") -> UpdateRecord:
    return UpdateRecord(task_id(number), 1, at, state, meta)


def test_of_the_states_of_a_turn_the_last_one_is_told_and_of_items_all() -> None:
    returns = Returns(lambda link: 7)
    news = [
        update(1, state="A"), update(1, 0), update(2, state="A"), update(1, 1),
        update(1, state="B"), update(2, 0),
    ]  # fmt: skip
    for record in news:
        returns.update(LINK, record)
    (message,) = sent(returns.flush(), Updates)
    assert message.updates == [
        update(1, 0), update(2, state="A"), update(1, 1), update(1, state="B"), update(2, 0),
    ]  # fmt: skip


def test_states_of_another_attempt_are_told_too() -> None:
    returns = Returns(lambda link: 7)
    first, second = update(1, state="A"), update(1, state="B")
    second.attempt = 2
    returns.update(LINK, first)
    returns.update(LINK, second)
    assert sent(returns.flush(), Updates) == [Updates([first, second])]


def test_news_come_before_what_ends_their_tasks_and_nothing_twice() -> None:
    returns = Returns(lambda link: 7)
    returns.reject(LINK, (task_id(1), 1, 2), "text")
    returns.retry(LINK, RetryRecord(task_id(2), 1, 0, True, "text"))
    returns.update(LINK, update(1, 0))
    assert returns.is_due
    kinds = [type(effect.message) for effect in of(returns.flush(), Send)]
    assert kinds == [Updates, Retry, Reject]
    assert not returns.is_due
    assert returns.flush() == []


def test_each_text_and_time_has_a_message_of_its_own() -> None:
    """One text went with all that an owner was given back in a turn."""
    returns = Returns(lambda link: 7)
    returns.reject(LINK, (task_id(1), 1, 9), "one died")
    returns.reject(LINK, (task_id(2), 1, 10), "later", 50)
    returns.reject(LINK, (task_id(3), 1, 9), "one died")
    assert sent(returns.flush(), Reject) == [
        Reject([(task_id(1), 1, 9), (task_id(3), 1, 9)], "one died", 7),
        Reject([(task_id(2), 1, 10)], "later", 7, 50),
    ]


def test_large_ones_go_in_several_messages() -> None:
    returns = Returns(lambda link: 7)
    large = bytes(BATCH_BYTES_MAX // 2 + 1)
    for number in range(3):
        returns.update(LINK, update(number, 0, meta=large))
        returns.retry(LINK, RetryRecord(task_id(number), 1, 0, True, "", large))
    effects = returns.flush()
    assert [len(message.updates) for message in sent(effects, Updates)] == [1, 1, 1]
    assert [len(message.tasks) for message in sent(effects, Retry)] == [1, 1, 1]


def test_nobody_is_told_on_a_link_that_is_gone() -> None:
    returns = Returns(lambda link: 7)
    for link in (LINK, OTHER):
        returns.reject(link, (task_id(1), 1, 2), "text")
        returns.retry(link, RetryRecord(task_id(2), 1, 0, True, "text"))
        returns.update(link, update(1, 0))
    returns.link_down(LINK)
    assert [effect.link for effect in of(returns.flush(), Send)] == [OTHER] * 3
