"""All messages that may travel."""

from __future__ import annotations

from zmqtasks.wire import messages
from zmqtasks.wire.beat import Beats
from zmqtasks.wire.messages import Message

#: {type byte: message class}.
MESSAGE_CLASSES: dict[int, type[Message]] = {
    cls.TYPE: cls
    for cls in (*vars(messages).values(), Beats)
    if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
}
