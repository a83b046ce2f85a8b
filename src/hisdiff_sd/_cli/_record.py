"""What an experiment has done, and with which settings: ``experiment.json`` in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._whole_file import write_text

_NAME = "experiment.json"


class Record:
    """Settings of the steps that leave files, so that a step is done again when they have changed.

    Parameters
    ----------
    folder
        Folder of the experiment.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        try:
            self._steps: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))["steps"]
        except FileNotFoundError:
            self._steps = {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HisDiffError(
                f"{self._path} cannot be read ({error}); remove it, and what shall be made again with it"
            ) from error

    def is_done(self, step: str, settings: dict[str, Any], *made: Path) -> bool:
        """Whether a step was finished with these settings, and what it made is there."""
        there = self._steps.get(step, {})
        return bool(there.get("done")) and there["settings"] == _plain(settings) and all(p.exists() for p in made)

    def differs(self, step: str, settings: dict[str, Any]) -> str:
        """What differs from the settings that a step was begun with; empty if nothing does, or it was not begun."""
        if step not in self._steps:
            return ""
        there, asked = self._steps[step]["settings"], _plain(settings)
        names = [k for k in asked if there.get(k) != asked[k]]
        return "; ".join(f"{k}: {_short(there.get(k))} there, {_short(asked[k])} asked for" for k in names)

    def is_mine(self, step: str) -> bool:
        """Whether a step was begun here, so that what it left may be replaced."""
        return step in self._steps

    def found(self, step: str, key: str) -> Any:
        """What a finished step noted under a key; None if it is not finished."""
        return self._steps.get(step, {}).get(key)

    def begin(self, step: str, settings: dict[str, Any]) -> None:
        """Note what a step is about to do, so that what it leaves is known even if it is interrupted."""
        self._write(step, {"settings": _plain(settings), "done": False})

    def end(self, step: str, **found: Any) -> None:
        """Note that a step is finished."""
        self._write(step, {**self._steps[step], "done": True, **found})

    def _write(self, step: str, entry: dict[str, Any]) -> None:
        self._steps[step] = entry
        write_text(self._path, json.dumps({"steps": self._steps}, indent=1) + "\n")


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(settings, default=str)))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
