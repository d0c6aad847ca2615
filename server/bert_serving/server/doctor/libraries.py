"""Python, our two packages and the libraries that they need, as installed, against what the packages ask for.

Imports nothing of the rest of this package, which another version of the client may break.
"""
from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .findings import Finding, ok, problem, warning

SERVER, CLIENT = "bert-serving-server", "bert-serving-client"


def check_packages() -> Iterator[Finding]:
    """Python, and our own two packages: both have to be of one version."""
    try:
        server = metadata.metadata(SERVER)
    except metadata.PackageNotFoundError:
        yield warning("packages", f"{SERVER} is not installed as a package, so that nobody says which versions of "
                                  "others it needs; install it with pip")
        return
    wanted = server["Requires-Python"]
    found = platform.python_version()
    if SpecifierSet(wanted or "").contains(found, prereleases=True):
        yield ok("python", f"Python {found}, expected {wanted}")
    else:
        yield problem("python", f"Python {found}, expected {wanted}; install {SERVER} in another Python")
    own = server["Version"]
    try:
        other = metadata.version(CLIENT)
    except metadata.PackageNotFoundError:
        other = None
    if other == own:
        yield ok("packages", f"{SERVER} and {CLIENT} {own}")
    else:
        yield problem("packages", f"{SERVER} is {own}, but {CLIENT} {other or 'is missing'}; both have to be of one "
                                  f"version: pip install {CLIENT}=={own}")


def check_libraries() -> Iterator[Finding]:
    """What the server cannot do without: a line for what is wrong, else one for all."""
    found = []
    for requirement in _required():
        version = _version(requirement.name)
        if version is None:
            yield problem("libraries", f"{requirement.name} is missing, expected {requirement}; install {SERVER} with "
                                       "pip, which brings it")
        elif not requirement.specifier.contains(version, prereleases=True):
            yield _too_old(requirement, version)
        else:
            found.append(f"{requirement.name} {version}")
    if found:
        yield ok("libraries", ", ".join(found))


def check_extra(extra: str) -> Iterator[Finding]:
    """The versions of what an extra brings; what is missing is said where it is needed."""
    for requirement in _required(extra):
        version = _version(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            yield _too_old(requirement, version)


def _required(extra: str = "") -> list[Requirement]:
    """The libraries that our package names, on this machine; those of an extra alone if one is given."""
    try:
        lines = metadata.requires(SERVER) or []
    except metadata.PackageNotFoundError:
        return []
    requirements = [requirement for requirement in map(Requirement, lines)
                    if not requirement.name.startswith("bert-serving-")]
    base = [requirement for requirement in requirements if _applies(requirement, "")]
    if not extra:
        return base
    return [requirement for requirement in requirements if requirement not in base and _applies(requirement, extra)]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _too_old(requirement: Requirement, version: str) -> Finding:
    return warning("libraries", f"{requirement.name} is {version}, expected {requirement.specifier}, which is what was "
                                f"tested; pip install \"{requirement.name}{requirement.specifier}\"")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
