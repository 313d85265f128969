"""How tasks make signatures of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from zmqtasks.app.canvas.maps import chunks, xmap, xstarmap
    from zmqtasks.app.canvas.signature import Signature
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
