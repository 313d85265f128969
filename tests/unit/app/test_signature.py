"""The matcher accepts what Python accepts, in Python's words; digests tell callers apart."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.app.signature import signature_of


@st.composite
def functions(draw: st.DrawFn) -> Any:
    """Functions with all kinds of parameters."""
    names = iter("abcdefgh")
    counts = draw(st.tuples(*[st.integers(0, 2)] * 3))
    defaults_from = draw(st.integers(0, 4))
    positional = [next(names) for _ in range(counts[0] + counts[1])]
    parts = [n + ("=0" if i >= defaults_from else "") for i, n in enumerate(positional)]
    if counts[0]:
        parts.insert(counts[0], "/")
    star = draw(st.sampled_from(["", "*rest"]))
    keywords = [next(names) + draw(st.sampled_from(["", "=0"])) for _ in range(counts[2])]
    if star or keywords:
        parts.append(star or "*")
    parts += keywords
    if draw(st.booleans()):
        parts.append("**more")
    namespace: dict[str, Any] = {}
    exec(f"def made({', '.join(parts)}): return 'called'", namespace)
    return namespace["made"]


arguments = st.lists(st.integers(), max_size=6)
keywords = st.dictionaries(st.sampled_from([*"abcdefgh", "rest", "more", "other"]), st.integers())


@given(functions(), arguments, keywords)
def test_the_matcher_accepts_and_refuses_what_the_function_does_in_the_same_words(
    function: Any, args: list[int], kwargs: dict[str, int]
) -> None:
    # Not compared with Signature.bind, which differs from calls for positional-only
    # names that **more may take, and differs between versions of Python.
    match = signature_of(function).match
    refusal = ""
    try:
        function(*args, **kwargs)
    except TypeError as exc:
        refusal = str(exc)
    if refusal:
        with pytest.raises(TypeError) as caught:
            match(*args, **kwargs)
        assert str(caught.value) == refusal
    else:
        match(*args, **kwargs)


@given(functions(), functions())
def test_digests_are_equal_for_equal_parameter_lists_only(left: Any, right: Any) -> None:
    def shape(function: Any) -> list[Any]:
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default is p.empty) for p in parameters]

    same = signature_of(left).digest == signature_of(right).digest
    assert same == (shape(left) == shape(right))


def test_values_of_defaults_and_annotations_do_not_change_the_digest() -> None:
    def one(a: int, b: object = object()) -> None: ...
    def two(a: str, b: object = 3) -> str: ...  # type: ignore[empty-body]

    assert signature_of(one).digest == signature_of(two).digest
    assert signature_of(two).text == "(a: 'str', b: 'object' = 3) -> 'str'"


def test_the_task_itself_is_left_out_when_bound() -> None:
    def task(self: Any, x: int) -> None: ...
    def plain(x: int) -> None: ...
    def rest(*args: Any) -> None: ...

    found = signature_of(task, bound=True)
    assert found.digest == signature_of(plain).digest
    assert found.names == ("x",)
    assert signature_of(rest, bound=True).text == "(*args: 'Any') -> 'None'"
    with pytest.raises(TypeError, match=r"nothing\(\) has bind=True but no first parameter"):
        signature_of(nothing, bound=True)


def nothing() -> None: ...


def test_decorated_functions_have_the_signature_of_what_they_wrap() -> None:
    def original(x: int, *, y: int) -> None: ...

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    found = signature_of(wrapper)
    found.match(1, y=2)
    with pytest.raises(TypeError, match=re.escape("original() missing 1 required")):
        found.match(1)


def test_callables_without_a_signature_take_anything() -> None:
    class Opaque:
        __signature__ = "nonsense"

        def __call__(self) -> None: ...

    for function in (dict, getattr):
        signature_of(function).match(1, 2)


def test_long_signatures_are_cut() -> None:
    namespace: dict[str, Any] = {}
    exec(f"def many({', '.join(f'parameter_{i}' for i in range(200))}): ...", namespace)
    found = signature_of(namespace["many"])
    assert len(found.text) == 200
    assert len(found.names) == 200
