"""What owners are told at the end of a turn."""

from __future__ import annotations

from tests.support.machines import OWNER, link_to, of, sent, task_id
from zmqtasks.core.effects import Note, Send
from zmqtasks.core.returns import Returns
from zmqtasks.limits import BATCH_BYTES_MAX, NEWS_UNACKED_BYTES_MAX
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


def test_an_owner_that_takes_nothing_is_sent_so_many_bytes_and_the_last_state_later() -> None:
    unacked = 0
    returns = Returns(lambda link: 7)
    returns.unacked_bytes = lambda link: unacked
    notes: list[Note] = []
    for at in range(2_000):
        returns.update(LINK, update(1, state=f"S{at}", meta=bytes(10_000)))
        effects = returns.flush()
        unacked += sum(len(u.meta) for m in sent(effects, Updates) for u in m.updates)
        notes += of(effects, Note)
    assert unacked <= NEWS_UNACKED_BYTES_MAX + 10_000
    assert {note.event for note in notes} == {"news.dropped"}
    assert len({note.once for note in notes}) == 1
    assert returns.is_due
    unacked = 0
    (message,) = sent(returns.flush(), Updates)
    assert [record.state for record in message.updates] == ["S1999"]
    assert not returns.is_due


def test_items_are_told_to_a_slow_owner_too_and_a_newer_state_replaces_one_that_waits() -> None:
    unacked = NEWS_UNACKED_BYTES_MAX + 1
    returns = Returns(lambda link: 7)
    returns.unacked_bytes = lambda link: unacked
    returns.update(LINK, update(1, state="A"))
    returns.update(LINK, update(1, 0))
    (message,) = sent(returns.flush(), Updates)
    assert message.updates == [update(1, 0)]
    unacked = 0
    returns.update(LINK, update(1, state="B"))
    (message,) = sent(returns.flush(), Updates)
    assert message.updates == [update(1, state="B")]


def test_states_that_wait_for_a_lost_link_are_gone_with_it() -> None:
    returns = Returns(lambda link: 7)
    returns.unacked_bytes = lambda link: NEWS_UNACKED_BYTES_MAX + 1
    returns.update(LINK, update(1, state="A"))
    assert sent(returns.flush(), Updates) == []
    returns.link_down(LINK)
    assert returns.flush() == []
    assert not returns.is_due
