"""Ids that are made from what they name."""

from __future__ import annotations

import uuid

from zmqtasks.ids import (
    ID_TEXT_KEY,
    format_task_id,
    keyed_task_id,
    learn_text,
    parse_task_id,
    text_of_task_id,
)


def test_id_of_a_key_never_changes() -> None:
    # Kept by stores and journals: another version must make the same.
    made = format_task_id(keyed_task_id("shop", "tasks.pay", "order 17"))
    assert made == "df630b25-462e-b622-255e-98a28819315d"


def test_same_key_of_another_task_or_app_is_another_id() -> None:
    ids = {
        keyed_task_id("shop", "pay", "k"),
        keyed_task_id("shop", "refund", "k"),
        keyed_task_id("bank", "pay", "k"),
        keyed_task_id("shop", "pay", "l"),
        keyed_task_id("shop", "pa", "yk"),
    }
    assert len(ids) == 5


def test_an_id_that_was_given_as_text_is_shown_as_that_and_its_uuid_means_the_same() -> None:
    task_id = parse_task_id("order-4711")
    assert format_task_id(task_id) == "order-4711"
    assert parse_task_id(str(uuid.UUID(bytes=task_id))) == task_id
    learn_text({ID_TEXT_KEY: "order-4712"})
    assert text_of_task_id(parse_task_id("order-4712")) == "order-4712"
    learn_text({ID_TEXT_KEY: b"no text"})
    learn_text({})
