"""What a forked process changes at its start, because it has none of its parent's other threads.

A lock that another thread held while the process was forked stays locked in the child: nobody will
unlock it. So each module with locks replaces them in the child.
"""

import os
from collections.abc import Callable


def in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call a function, as its decorator, at the start of each forked process."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
    return function
