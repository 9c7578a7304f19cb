"""The work of programs on files, as a command: `python -P edits.py save NAME…` (the text on stdin) or `rename DIR`.

It is run by its path, so that starting it costs no more than starting Python.
"""

import os
import sys


def save(names: list[str]) -> None:
    """Write each file anew and fsync it, name it on stdout, and wait for a line before the next one."""
    text = sys.stdin.readline().encode()
    for name in names:
        with open(name, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        print(name, flush=True)
        sys.stdin.readline()


def rename(directory: str) -> None:
    """Give every file of a directory another ending."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        os.rename(path, os.path.splitext(path)[0] + ".bak")


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(sys.argv[2:])
    else:
        rename(sys.argv[2])
