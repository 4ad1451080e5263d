"""How a long-lived process spares itself the garbage collector, which stops everything else while it looks."""

from __future__ import annotations

import gc


def spare_collector(after: int) -> None:
    """What is loaded by now stays for the whole life, so it need not be looked through again and again. `after` = new
    objects after which the collector looks at them; Python's own 700 come within one list of items or a few Jobs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(after)
