"""What the package says while it works is seen without any setting, unless the program that uses it says where it goes."""

from __future__ import annotations

import logging
import sys


class _Spoken(logging.Handler):
    """Lines on stderr; silent where the program has handlers of its own, which say them already."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(self.format(record), file=sys.stderr)


def speak() -> None:
    """Have messages from INFO on seen; what a program has set before is left as it is."""
    logger, root = logging.getLogger("hisdiff_sd"), logging.getLogger()
    if logger.handlers:
        return
    logger.addHandler(_Spoken())
    if logger.level == logging.NOTSET and not root.handlers:
        logger.setLevel(logging.INFO)
