"""The families, by key. Each module of this folder holds a list of them."""

from ..family import Family
from . import classes, dictionaries, generators, lists, numbers, printing, recursion, strings

MODULES = (numbers, printing, strings, lists, dictionaries, recursion, generators, classes)
FAMILIES: dict[str, Family] = {}
for module in MODULES:
    for family in module.FAMILIES:
        assert family.key not in FAMILIES, f"two families are called {family.key}"
        FAMILIES[family.key] = family
# Where a family belongs, for tables: "numbers", "printing", ...
AREAS = {family.key: module.__name__.rpartition(".")[2] for module in MODULES for family in module.FAMILIES}
