"""How tasks make signatures of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from zmqtasks.app.canvas.maps import chunks, xmap, xstarmap
    from zmqtasks.app.canvas.signature import Signature
    from zmqtasks.app.result import AsyncResult
    from zmqtasks.app.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class WithSignatures(Generic[P, R]):
    """The part of a task that makes signatures of it."""

    def _as_task(self) -> Task[P, R]:
        return cast("Task[P, R]", self)  # nothing else is of this class

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """A signature of it: a call that is yet to be made, perhaps with more arguments."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """An immutable signature of it: one that takes no more arguments."""
        return self.signature(args, kwargs, immutable=True)

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **more: Any,
    ) -> Signature[R]:
        """A signature of it, with options.

        Raises:
            ConfigError: an unknown option or a bad value.
        """
        from zmqtasks.app.canvas.signature import Signature  # many processes never need it

        return Signature(self._as_task(), args, kwargs, options, None, immutable, **more)

    #: Celery's older name of it.
    subtask = signature

    def replace(self, sig: Mapping[str, Any]) -> NoReturn:
        """Let another call, or a workflow, take the place of the task that runs here.

        The attempt ends here. The task has the same id as before, and its result, or error, is
        that of what took its place: of a group the list of its results. What waits for the
        task goes on waiting, and its errbacks stay. Its owner makes the calls, so
        they survive this worker, and an attempt that is lost makes none.

        Args:
            sig: a signature, up to 1,000 calls.

        Raises:
            Ignore: always.
            RuntimeError: called outside of a running task.
            ConfigError: too many calls, or the task has no owner.
            PayloadTooLarge: their arguments have more than 16 MiB.
        """
        from zmqtasks.app.canvas.replacing import replace

        raise replace(self._as_task(), sig)

    def add_to_chord(self, sig: Mapping[str, Any]) -> AsyncResult[Any]:
        """Let another call be a further member of the chord that the running task belongs to.

        It is made when the task that runs here has succeeded. Its result comes last in the
        list that the body gets.

        Args:
            sig: a signature, no group.

        Returns:
            The handle of that call.

        Raises:
            RuntimeError: called outside of a running task.
            ConfigError: that is no member of a chord, or the call cannot be one.
        """
        from zmqtasks.app.canvas.replacing import add_to_chord

        return add_to_chord(self._as_task(), sig)

    def map(self, it: Iterable[Any]) -> xmap[R]:
        """One task that calls it with each of these, one after the other."""
        from zmqtasks.app.canvas.maps import xmap

        return xmap(self._as_task(), it)

    def starmap(self, it: Iterable[Sequence[Any]]) -> xstarmap[R]:
        """The same with several positional arguments each."""
        from zmqtasks.app.canvas.maps import xstarmap

        return xstarmap(self._as_task(), it)

    def chunks(self, it: Iterable[Sequence[Any]], n: int) -> chunks[R]:
        """Tasks that each do what ``starmap`` does with ``n`` of these."""
        from zmqtasks.app.canvas.maps import chunks

        return chunks(self._as_task(), it, n)
