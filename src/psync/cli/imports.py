"""Imports without what they bring along and psync never uses: a fifth of a start.

Only for the process of the command line, which is psync's own; ``import psync`` in somebody else's
program imports everything as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType


def import_msgspec() -> None:
    """Import msgspec without typing_extensions, 9 ms.

    It looks there, if some dependency has brought it along, for a name that typing has as well.
    """
    missing = "typing_extensions" not in sys.modules
    if missing:
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # "not installed"
    try:
        import msgspec  # noqa: F401  (for its effect on sys.modules)
    finally:
        if missing:
            del sys.modules["typing_extensions"]


def import_picows() -> None:
    """Import picows without python-socks, 10 ms: it is for connections through SOCKS proxies.

    Where picows wants more of it than is known here, it gets the real one.
    """
    names = ("python_socks", "python_socks.async_", "python_socks.async_.asyncio")
    if "picows" in sys.modules or "python_socks" in sys.modules:
        return
    stand_in = ModuleType(names[0])
    vars(stand_in).update(ProxyError=OSError, Proxy=object)
    sys.modules.update(dict.fromkeys(names, stand_in))
    try:
        import picows  # noqa: F401  (for its effect on sys.modules)
    except ImportError:
        pass  # whoever imports it next gets it whole, or learns what is wrong
    finally:
        for name in names:
            del sys.modules[name]
