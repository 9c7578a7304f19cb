"""What programs do to files, as a command: `python -P edits.py save NAME…` (the text on stdin) or `rename DIR`.

Run by its path, so that starting it costs no more than starting Python.
"""

import os
import sys


def save(names: list[str]) -> None:
    """Each file written anew and fsynced; then it is named on stdout, and the next one waits for a line."""
    text = sys.stdin.readline().encode()
    for name in names:
        with open(name, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        print(name, flush=True)
        sys.stdin.readline()


def rename(directory: str) -> None:
    """Every file of a directory gets another ending."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        os.rename(path, os.path.splitext(path)[0] + ".bak")


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(sys.argv[2:])
    else:
        rename(sys.argv[2])
