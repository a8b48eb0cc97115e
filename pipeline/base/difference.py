"""How two identities differ: each field with both values."""

from collections.abc import Mapping
from typing import Any

from pipeline.base import files
from pipeline.runtime.errors import IdentityError
from pipeline.runtime.text import few

MACHINE_FIELDS = frozenset({"canary", "engine"})  # the machine and its libraries decide them, not the user
OTHER_MACHINE = (
    "this machine's libraries draw other views. With numba, or with Pillow 13, views are Pillow 13's; a cache that Pillow 12 "
    "drew opens with Pillow 12 and DISTIL_ENGINE=pil (log.jsonl in the work pool names the libraries of this one). Use those, "
    "or start a new one with: python -m stages.precompute --cache NAME --new-cache"
)
Difference = list[tuple[str, object, object]]


def differences(expected: object, found: object, path: str = "") -> Difference:
    """Every leaf where two identities differ: (field path, expected, found); "absent" is no value."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        leaves: Difference = []
        for key in [*expected, *(key for key in found if key not in expected)]:
            inner = f"{path}.{key}" if path else str(key)
            leaves += differences(expected.get(key, "absent"), found.get(key, "absent"), inner)
        return leaves
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(expected) != len(found):
            return [(path, f"{len(expected)} entries", f"{len(found)} entries")]
        pairs = enumerate(zip(expected, found))
        return [leaf for index, (a, b) in pairs for leaf in differences(a, b, f"{path}[{index}]")]
    # Compared as the bytes that are hashed: True, 1 and 1.0 are equal in Python and three identities.
    same = files.canonical_json(expected) == files.canonical_json(found)
    return [] if same else [(path, expected, found)]


def machine_only(difference: Difference) -> bool:
    """Whether there are differences, and all lie in fields that the machine decides."""
    fields = [set(path.replace("[", ".").split(".")) for path, _, _ in difference]
    return bool(fields) and all(MACHINE_FIELDS & field for field in fields)


def describe(difference: Difference) -> str:
    """One line for each of the first keys that differ, and how many more there are."""
    return few([f"  {path}: expected {a!r}, found {b!r}" for path, a, b in difference], 12, "\n")


def require_same(expected: Mapping[str, Any], found: Mapping[str, Any], where: str, repair: str) -> None:
    """Raises IdentityError (exit 4) that names each field with both values."""
    difference = differences(expected, found)
    if not machine_only(difference):  # another recipe has another canary, too: the recipe is what to name
        difference = [leaf for leaf in difference if leaf[0] not in MACHINE_FIELDS]
    if difference:
        raise IdentityError(f"{where}: a cache of another identity:\n{describe(difference)}\n{repair}")
