"""How property tests draw: the same cases in every run, unless a hunt for new ones is asked for.

A gate that draws anew each time is red or green by chance. `HYPOTHESIS_PROFILE=hunt python -m pytest` draws anew; what
it finds becomes a test of its own.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # So it is in a shell's background job, and every process that a test starts would inherit it: none could be
    # interrupted, which some tests are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.register_profile("hunt", derandomize=False, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
