"""Finds a store by its URL.

Built-in schemes and those of the entry point group ``zmqtasks.stores`` (name: the
scheme; object: a callable that takes a :class:`StoreURL` and returns a ``Store``).
A back end is imported only when its scheme is asked for, so that an unused one costs
nothing and may miss its client library.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from zmqtasks.errors import ConfigError
from zmqtasks.stores.base import BlobStore, Queryable, Store

#: Entry point group of stores from other packages.
GROUP = "zmqtasks.stores"

#: {scheme: "module:function"} of the stores that are part of zmqtasks.
BUILT_IN: Mapping[str, str] = {
    "memory": "zmqtasks.stores.memory:from_url",
    "sqlite": "zmqtasks.stores.sqlite:from_url",
}


class StoreURL(NamedTuple):
    """A store's address, taken apart."""

    #: As it was given; has the password, so show ``str()`` of this object instead.
    text: str
    scheme: str
    #: What stands between ``//`` and the path: ``user:password@host:port``.
    authority: str
    #: With its leading slash, percent-decoded.
    path: str
    params: dict[str, str]

    def __str__(self) -> str:
        """The URL without its password."""
        return hide_password(self.text)

    def check_params(self, known: Mapping[str, str]) -> None:
        """Refuse parameters that the back end does not have.

        Args:
            known: {parameter: what it means}.

        Raises:
            ConfigError: names the parameter and the nearest that exists.
        """
        for key in self.params:
            if key not in known:
                raise ConfigError(
                    f"store {self}: unknown parameter {key!r}"
                    f"{_nearest(key, known)}; there are: {', '.join(sorted(known)) or 'none'}"
                )

    def int_param(self, key: str, default: int) -> int:
        """A parameter that is a positive whole number.

        Raises:
            ConfigError: it is not.
        """
        text = self.params.get(key)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise ConfigError(f"store {self}: {key}={text} must be a whole number above 0")
        return int(text)


Factory = Callable[[StoreURL], Store]


def parse_store_url(text: str) -> StoreURL:
    """Take a store's URL apart.

    Raises:
        ConfigError: it is no URL.
    """
    scheme, separator, _ = text.partition("://")
    if not separator or not scheme:
        raise ConfigError(
            f"store {text!r} is no URL; write for example sqlite:///results.db (a file here), "
            "sqlite:////var/lib/results.db (an absolute path) or memory://"
        )
    try:
        parts = urlsplit(text)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as exc:
        raise ConfigError(f"store {hide_password(text)} is no usable URL: {exc}") from None
    if parts.fragment:
        raise ConfigError(f"store {hide_password(text)}: write # as %23 in a URL")
    return StoreURL(text, parts.scheme, parts.netloc, unquote(parts.path), dict(pairs))


def hide_password(text: str) -> str:
    """The URL with ``***`` for its password, for messages and logs."""
    head, separator, rest = text.partition("://")
    authority, slash, tail = rest.partition("/")
    user_info, at, host = authority.rpartition("@")
    user, colon, password = user_info.partition(":")
    if not separator or not password:
        return text
    return f"{head}{separator}{user}{colon}***{at}{host}{slash}{tail}"


def make_store(text: str) -> Store:
    """The store that this URL names, not opened yet.

    Raises:
        ConfigError: no URL, no such scheme, a wrong parameter, or the back end's client
            library is not installed.
    """
    url = parse_store_url(text)
    if url.scheme in BUILT_IN:
        module, _, function = BUILT_IN[url.scheme].partition(":")
        try:
            factory = getattr(importlib.import_module(module), function)
        except ImportError as exc:
            raise _missing_library(url, "zmqtasks", "", exc) from exc
        return cast("Factory", factory)(url)
    return _load_plug_in(url)(url)


def known_schemes() -> list[str]:
    """The URL schemes that can be used here, sorted."""
    return sorted({*BUILT_IN, *(point.name for point in metadata.entry_points(group=GROUP))})


def as_queryable(store: Store) -> Queryable:
    """The same store as one that can list.

    Raises:
        ConfigError: it states that it cannot.
    """
    if "queryable" not in store.capabilities:
        raise ConfigError(f"the store {type(store).__name__} cannot list results; use sqlite:///…")
    return cast("Queryable", store)


def as_blob_store(store: Store) -> BlobStore:
    """The same store as one that keeps large payloads by reference.

    Raises:
        ConfigError: it states that it cannot.
    """
    if "blobs" not in store.capabilities:
        raise ConfigError(f"the store {type(store).__name__} cannot keep large payloads apart")
    return cast("BlobStore", store)


def _load_plug_in(url: StoreURL) -> Factory:
    points = metadata.entry_points(group=GROUP, name=url.scheme)
    if not points:
        known = known_schemes()
        raise ConfigError(
            f"there is no store for {url.scheme}://{_nearest(url.scheme, known)}; there are: "
            f"{', '.join(known)}; others come with packages that have an entry point in the "
            f"group {GROUP!r}"
        )
    if len({point.value for point in points}) > 1:
        where = ", ".join(sorted(point.value for point in points))
        raise ConfigError(f"several packages offer a store for {url.scheme}://: {where}; keep one")
    point = next(iter(points))
    package = point.dist.name if point.dist is not None else point.module
    try:
        factory = point.load()
    except ImportError as exc:
        raise _missing_library(url, package, ",".join(point.extras), exc) from exc
    except AttributeError as exc:
        raise ConfigError(f"store {url}: {package} has no {point.value}: {exc}") from exc
    return cast("Factory", factory)


def _missing_library(url: StoreURL, package: str, extra: str, exc: ImportError) -> ConfigError:
    remedy = f": pip install '{package}[{extra}]'" if extra else ""
    return ConfigError(
        f"store {url} needs the module {exc.name or exc!s}, which is not installed{remedy}"
    )


def _nearest(word: str, known: Mapping[str, str] | list[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
