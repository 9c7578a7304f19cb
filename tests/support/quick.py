"""Commands of kvfs without a process of their own, for tests that make many of them: a start takes half a second.

The daemon they talk to has to be another process. What a command does to its own process (its directory, its
descriptors, its exit) is tested with a real one.
"""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from unittest.mock import patch

from kvfs.cli import main

Done = subprocess.CompletedProcess[str]


def quick(env: Mapping[str, str], *words: object, typed: str = "") -> Done:
    """Run a command line with this environment and return how it ended; `typed` is what the user answers."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, env, clear=True),
        patch.object(sys, "stdin", io.StringIO(typed)),
        redirect_stdout(out),
        redirect_stderr(err),
        chdir(os.getcwd()),  # `umount` leaves its own
    ):
        status = main([str(word) for word in words])
    return Done(list(map(str, words)), status, out.getvalue(), err.getvalue())
