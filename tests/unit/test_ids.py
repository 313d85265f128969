"""Ids that are made from what they name."""

from __future__ import annotations

from zmqtasks.ids import format_task_id, keyed_task_id


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
