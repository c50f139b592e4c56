"""python -m clusterfusion: the command line, which is a program of its own."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    from ._native import program

    path = str(program())
    try:
        os.execv(path, [path, *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"clusterfusion: {path}: {error.strerror}")


if __name__ == "__main__":
    main()
