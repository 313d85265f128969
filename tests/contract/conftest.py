from __future__ import annotations

import threading
from collections.abc import Callable

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Tests whose pool needs the main thread run beside it in another one."""
    pools = getattr(pyfuncitem.cls, "main_thread_pools", None)
    if pools is None or "rig" not in pyfuncitem.fixturenames:
        return None
    pool = pools.get_nowait()
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    trouble: list[BaseException] = []
    thread = threading.Thread(
        target=_call, args=(pyfuncitem.obj, arguments, trouble, pool.stop), daemon=True
    )
    thread.start()
    pool.run_forever()
    thread.join()
    if trouble:
        raise trouble[0]
    return True


def _call(
    test: Callable[..., None], arguments: dict[str, object], trouble: list[BaseException],
    stop: Callable[[], None],
) -> None:  # fmt: skip
    try:
        test(**arguments)
    # Whatever it is, pytest reports it in the main thread.
    except BaseException as exc:  # noqa: BLE001
        trouble.append(exc)
    finally:
        stop()
