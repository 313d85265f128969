"""Stamps: names and values that all calls of a workflow carry, to find them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zmqtasks.app.callbacks import listed
from zmqtasks.app.canvas.chains import chain, chord
from zmqtasks.app.canvas.group import group
from zmqtasks.app.option_checks import stamps_of, values_of

if TYPE_CHECKING:
    from zmqtasks.app.canvas.signature import Signature

#: What a visitor may return beside stamps: which of all that it returns are stamps.
_NAMES = "stamped_headers"


class StampingVisitor:
    """Says how each part of a workflow is stamped, for ``Signature.stamp``.

    Each method gets the part, and the stamps so far as keyword arguments, and returns more
    stamps, for the part and all within it. If it returns ``"stamped_headers": [names]`` too,
    only these are stamps, and the others headers of the calls. Those that are not overridden
    add nothing.
    """

    def on_signature(self, sig: Signature[Any], **headers: Any) -> Mapping[str, Any] | None:
        """A call of one task."""
        return None

    def on_group_start(self, group: group[Any], **headers: Any) -> Mapping[str, Any] | None:
        """A group, before its members."""
        return None

    def on_group_end(self, group: group[Any], **headers: Any) -> None:
        """A group, after its members."""

    def on_chain_start(self, chain: chain, **headers: Any) -> Mapping[str, Any] | None:
        """A chain, before its calls."""
        return None

    def on_chain_end(self, chain: chain, **headers: Any) -> None:
        """A chain, after its calls."""

    def on_chord_header_start(self, sig: chord, **headers: Any) -> Mapping[str, Any] | None:
        """A chord, before its header; by default as its header is stamped as a group."""
        return self.on_group_start(sig.header, **headers)

    def on_chord_header_end(self, sig: chord, **headers: Any) -> None:
        """A chord, after its header."""
        self.on_group_end(sig.header, **headers)

    def on_chord_body(self, sig: chord, **headers: Any) -> Mapping[str, Any] | None:
        """A chord, before its body."""
        return None

    def on_callback(self, callback: Signature[Any], **headers: Any) -> Mapping[str, Any] | None:
        """What a call is linked to."""
        return None

    def on_errback(self, errback: Signature[Any], **headers: Any) -> Mapping[str, Any] | None:
        """What is called when a call fails."""
        return None


def stamp(
    found: Signature[Any], visitor: StampingVisitor | None, appends: bool, given: Mapping[str, Any]
) -> None:
    """Stamp a signature and all within it; see ``Signature.stamp``."""
    _Stamping(visitor or StampingVisitor(), appends).stamp(found, dict(given))


class _Stamping:
    def __init__(self, visitor: StampingVisitor, appends: bool) -> None:
        self._visitor = visitor
        self._appends = appends

    def stamp(self, found: Signature[Any], given: dict[str, Any]) -> None:
        visitor = self._visitor
        if isinstance(found, chain):
            given = self._more(found, given, visitor.on_chain_start(found, **given))
            self._stamp_all(found, found.tasks, given)
            visitor.on_chain_end(found, **given)
        elif isinstance(found, chord):
            given = self._more(found, given, visitor.on_chord_header_start(found, **given))
            self._stamp_all(found, found.header.tasks, given)
            visitor.on_chord_header_end(found, **given)
            given = self._more(found, given, visitor.on_chord_body(found, **given))
            self.stamp(found.body, given)
        elif isinstance(found, group):
            given = self._more(found, given, visitor.on_group_start(found, **given))
            self._stamp_all(found, found.tasks, given)
            visitor.on_group_end(found, **given)
        else:
            self._stamp_links(found, given)
            given = self._more(found, given, visitor.on_signature(found, **given))
            self._set(found, given)

    def _stamp_all(
        self, found: Signature[Any], parts: list[Signature[Any]], given: dict[str, Any]
    ) -> None:
        self._stamp_links(found, given)
        for each in parts:
            self.stamp(each, given)

    def _stamp_links(self, found: Signature[Any], given: dict[str, Any]) -> None:
        from zmqtasks.app.canvas.signature import linked_signature

        for option, visit in (
            ("link", self._visitor.on_callback),
            ("link_error", self._visitor.on_errback),
        ):
            links = [
                linked_signature(each, found._app) for each in listed(found.options.get(option))
            ]
            for each in links:
                self.stamp(each, self._more(each, given, visit(each, **given)))
            if links:
                found.options[option] = links

    def _more(
        self, found: Signature[Any], given: dict[str, Any], told: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The stamps with those that the visitor has told; other headers it keeps itself."""
        if not told:
            return given
        names = told.get(_NAMES)
        more = {key: value for key, value in told.items() if key != _NAMES}
        if names is not None:
            headers = {key: more.pop(key) for key in list(more) if key not in names}
            if headers:
                found.set(headers={**(found.options.get("headers") or {}), **headers})
        return merged_stamps(given, more) if self._appends else {**given, **more}

    def _set(self, found: Signature[Any], given: Mapping[str, Any]) -> None:
        own = found.options.get("stamps") or {}
        stamps = merged_stamps(own, given) if self._appends else {**own, **given}
        if stamps:
            found.set(stamps=stamps_of(stamps))


def merged_stamps(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The values of both, each once."""
    names = dict.fromkeys([*first, *second])
    return {
        name: list(
            dict.fromkeys([*values_of(first.get(name, ())), *values_of(second.get(name, ()))])
        )
        for name in names
    }
