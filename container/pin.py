"""Print the pinned versions of hisdiff-sd and all that it needs, as they are installed here: a constraints file for pip.

Run it in an environment that has passed the tests: `python container/pin.py > container/constraints.txt`.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("openslide",)  # beside what is always needed


def needed(name: str, extras: tuple[str, ...], found: dict[str, str]) -> None:
    """Add the versions of what a package needs, if it is installed."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        other = canonicalize_name(requirement.name)
        if other in found:
            continue
        try:
            # the version of a CPU build ends with "+cpu", and is that of the other builds otherwise
            found[other] = distribution(other).version.partition("+")[0]
        except PackageNotFoundError:
            continue
        needed(other, tuple(requirement.extras), found)


def main() -> None:
    """Print a line per package."""
    found: dict[str, str] = {}
    needed("hisdiff-sd", EXTRAS, found)
    print(f"# Versions that are installed together on Python {platform.python_version()}; printed by container/pin.py.")
    for name, version in sorted(found.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
