"""From checked arguments to the gateway: one call, with and without a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.app.current import gateway, in_running_loop
from zmqtasks.app.option_checks import STAMPS_KEY, stamps_of
from zmqtasks.app.options import CallOptions, check_call_options
from zmqtasks.app.publishing import Arguments, Publication
from zmqtasks.app.result import AsyncResult, AtMostOnceResult
from zmqtasks.app.timing import count_from_then
from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.core.offspring import FAILED_KEY
from zmqtasks.errors import ConfigError, MeshOverloaded
from zmqtasks.ids import ID_TEXT_KEY, keyed_task_id, parse_task_id, text_of_task_id
from zmqtasks.node.gateway import Call, Durability, Gateway
from zmqtasks.wire.messages import Kind

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.node.room import Place


class Prepared(NamedTuple):
    """A call that is ready to be submitted."""

    gateway: Gateway
    call: Call
    handle: AsyncResult[Any]
    options: CallOptions
    durability: Durability
    #: For hooks, where there are some.
    publication: Publication | None = None

    def submit(self, wait_s: float | Place | None) -> None:
        """Hand it over.

        Raises:
            SubmitRejected: it was not accepted.
            SubmitUnknown: nobody knows whether it was.
        """
        self.gateway.submit(
            (self.call,),
            self.handle,
            wait_s=wait_s,
            require_worker_s=self.options.get("require_worker"),
            delivery=self.options.get("delivery") or "at_least_once",
            durability=self.durability,
        )
        if self.publication is not None:
            self.publication.done()

    @property
    def waits(self) -> str:
        """The option because of which submitting takes its time, "" if none does."""
        if self.durability is Durability.DISK:
            return "durability='disk'"
        options = self.options
        if options.get("delivery") != "at_most_once":
            # Others may have the task: they are asked first.
            if options.get("idempotency_key"):
                return "idempotency_key="
            if options.get("task_id"):
                return "task_id="
        return "require_worker=" if options.get("require_worker") else ""


def durability_of(
    app: App, task_durability: str | None, options: CallOptions, where: str
) -> Durability:
    """What a call survives: its own option decides, then its task's, then the setting.

    Raises:
        ConfigError: a task that is to be on disk is called at most once.
    """
    chosen = options.get("durability") or task_durability
    if options.get("delivery") == "at_most_once":
        if chosen == "disk":
            raise ConfigError(
                f"{where}: the task has durability='disk', and delivery='at_most_once' forgets a "
                "call once it is sent; say durability='memory' too, or leave delivery out"
            )
        return Durability.MEMORY
    return Durability.DISK if (chosen or app.settings.durability) == "disk" else Durability.MEMORY


def prepare(
    app: App,
    kind: Kind,
    arguments: Arguments,
    options: CallOptions,
    durability: Durability,
    ext: dict[str, Any],
) -> Prepared:
    """Give a call its id, its payload and its handle.

    Args:
        options: checked, and complete.
        ext: the facts of the call that its options make; taken over.

    Raises:
        PayloadTypeError, PayloadTooLarge: the arguments cannot travel.
        ConfigError: hooks made headers that cannot.
    """
    through = gateway(app)
    key, text = options.get("idempotency_key"), options.get("task_id")
    if key:
        task_id = keyed_task_id(kind.app, kind.name, key)
    else:
        task_id = parse_task_id(text) if text else through.new_ids(1)[0]
    headers = options.get("headers")
    publication = None
    if app.is_hooked and FAILED_KEY not in ext:
        publication = Publication(kind, task_id, arguments, ext, headers)
        headers = publication.announce()
    body = app.encode_arguments(*arguments)
    if key or text:
        _add_identity(ext, kind, task_id, body)
    if headers:
        ext["h"] = dict(headers)
    if options.get("stamps"):
        ext[STAMPS_KEY] = stamps_of(options["stamps"])
    after = options.get("after")
    if after:
        from zmqtasks.app.awaited import awaited_ids  # few calls need it

        ids, shape = ext.get(INPUTS_KEY, ([], None))
        ext[INPUTS_KEY] = [list(dict.fromkeys([*ids, *awaited_ids(after)])), shape]
    if options.get("link"):
        raise ConfigError(
            f"{kind.name}: link makes it a workflow, which cannot be called this way; use "
            "apply_async, or in a group of a generator a list"
        )
    if options.get("link_error"):
        from zmqtasks.app.errbacks import add_errbacks  # few calls need it

        add_errbacks(ext, app, options["link_error"], kind.name)
    if INPUTS_KEY in ext or FAILED_KEY in ext:
        count_from_then(ext, options)
    cls = AtMostOnceResult if options.get("delivery") == "at_most_once" else AsyncResult
    handle = cls.of_submitted(task_id, app, through)
    call = Call(task_id, kind, body, ext or None)
    return Prepared(through, call, handle, options, durability, publication)


def _add_identity(ext: dict[str, Any], kind: Kind, task_id: bytes, body: bytes) -> None:
    """Of a call whose id was chosen: whoever has a task of this id can tell whether this call
    asks for the same, and how the id was written."""
    from zmqtasks.wire.content import content_digest  # most processes never need it

    ext["c"] = content_digest(kind.app, kind.name, body)
    text = text_of_task_id(task_id)
    if text:
        ext[ID_TEXT_KEY] = text


def submit(prepared: Prepared, where: str) -> AsyncResult[Any]:
    """Submit from synchronous code.

    Raises:
        SubmitRejected: it was not accepted.
        SubmitUnknown: nobody knows whether it was.
        RuntimeError: it would block the running asyncio loop.
    """
    if in_running_loop():
        # Inside a task every call waits, for the owner of the task.
        if prepared.waits and not prepared.gateway.inside_task:
            raise blocking(where, prepared.waits)
        prepared.submit(0)
    else:
        prepared.submit(None)
    return prepared.handle


def blocking(where: str, option: str) -> RuntimeError:
    """The error for a call that must not wait, in a running loop, and would.

    Args:
        where: the method called, such as ``shop.add.delay()``.
        option: what makes it wait.
    """
    owner, dot, method = where.removesuffix("()").rpartition(".")
    return RuntimeError(
        f"{where}: {option} waits, which would block the running asyncio loop; "
        f"use await {owner}{dot}a{method}(...)"
    )


async def submit_async(app: App, prepared: Prepared) -> AsyncResult[Any]:
    """Submit from a coroutine: waits for room without blocking the loop.

    Raises:
        SubmitRejected: it was not accepted.
        SubmitUnknown: nobody knows whether it was.
    """
    if prepared.waits or prepared.gateway.inside_task:
        import asyncio

        await asyncio.to_thread(prepared.submit, None)
        return prepared.handle
    try:
        prepared.submit(0)
    except MeshOverloaded:
        from zmqtasks.app.mailbox import mailbox

        line_up = partial(prepared.gateway.line_up, (prepared.call,))
        await mailbox().submit(line_up, prepared.submit, app.settings.submit_timeout_s)
    return prepared.handle


def checked_options(options: Mapping[str, Any], where: str) -> CallOptions:
    """The options of a call, checked.

    Raises:
        ConfigError: an unknown option or a bad value.
    """
    check_call_options(options, where)
    return options  # type: ignore[return-value]  # its keys have just been checked


def check_arguments(args: object, kwargs: object, where: str) -> None:
    """Refuse what cannot be the arguments of a call.

    Raises:
        TypeError: ``args`` is no sequence of arguments, or ``kwargs`` no mapping.
    """
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise TypeError(f"{where}: args is a tuple or list, not {type(args).__name__}")
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"{where}: kwargs is a dict, not {type(kwargs).__name__}")
