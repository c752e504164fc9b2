"""Collector of MIC's log during a history: each error is a bug."""

import logging
from collections.abc import Callable

from typing_extensions import override


class Log(logging.Handler):
    """`errors` contains the logged errors. `close` removes the handler from the loggers."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._write_line = write_line
        self.errors: list[str] = []
        self._loggers = [logging.getLogger(name) for name in ("mic", "podidentity")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.addHandler(self)
            logger.setLevel(logging.INFO)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        about = {name: value for name, value in record.__dict__.items() if name in {"vm", "error", "pod", "resource"}}
        self._write_line(f"  log: {record.getMessage()} {about}")
        if record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage() + (f": {record.exc_info[1]!r}" if record.exc_info else ""))

    @override
    def close(self) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.removeHandler(self)
            logger.setLevel(level)
        super().close()
