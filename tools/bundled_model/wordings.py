"""Docstring templates: a few hundred sentences that stand for many thousand.

In a template ``[a|b|]`` is a choice (the last one empty), ``[word]`` a choice named in `SLOTS`, ``$1`` a parameter.
A template that opens with a verb slot is also said in the third person: "Return the sum", "Returns the sum".
"""

import itertools
import random
import re

SLOTS = {
    "return": "return return return compute calculate find get determine give|back work|out",
    "make": "return return return build create make give|back get produce construct",
    "check": "check|whether check|if return|True|if return|whether tell|whether determine|whether test|whether "
    "test|if decide|whether say|whether",
    "print": "print print print display show write|out output",
    "yield": "yield yield yield generate produce lazily|yield iterate|over",
    "count": "count count return|the|number|of return|the|count|of count|up find|the|number|of compute|the|number|of",
    "dict": "dictionary dictionary dict mapping",
    "elements": "elements items entries values members",
    "element": "element item entry value",
    "characters": "characters letters symbols",
    "largest": "largest biggest greatest maximum highest",
    "smallest": "smallest minimum lowest least",
    "remove": "remove delete drop strip strip|out take|out",
    "class": "a a a|simple a|small class|for|a a|class|for|a represents|a",
}

_slot = re.compile(r"\[([a-z]{3,}|[^\[\]]*\|[^\[\]]*)\]")  # not the [i] of an index


def choices(slot: str) -> list[str]:
    if "|" in slot:
        return slot.split("|")
    return [choice.replace("|", " ") for choice in SLOTS[slot].split()]


def third_person(sentence: str) -> str:
    """ "Return the sum" to "Returns the sum"; "lazily yield" to "lazily yields"."""
    first, _, rest = sentence.partition(" ")
    if first == "lazily":
        return f"lazily {third_person(rest)}"
    return f"{first}{'es' if first.endswith(('sh', 'ch', 'ss')) else 's'} {rest}"


def opens_with_verb(template: str) -> bool:
    match = _slot.match(template)
    return bool(match) and match[1] in ("return", "make", "check", "print", "yield", "count")


def draw(template: str, rng: random.Random) -> str:
    """One sentence of a template, in lower case where it starts with a slot, without a final stop."""
    sentence = tidy(_slot.sub(lambda m: rng.choice(choices(m[1])), template))
    if opens_with_verb(template) and rng.random() < 0.3:
        sentence = third_person(sentence)
        if rng.random() < 0.25:
            sentence = f"{rng.choice(['this function', 'a function that', 'function that'])} {sentence}"
    elif opens_with_verb(template) and rng.random() < 0.06:
        sentence = f"write a function to {sentence}"
    return sentence


def every_sentence(template: str) -> set[str]:
    """All sentences that the template's slots can spell (without the third person), in lower case."""
    parts = _slot.split(template)
    options = [[part] if i % 2 == 0 else sorted(set(choices(part))) for i, part in enumerate(parts)]
    return {tidy("".join(combination)).lower() for combination in itertools.product(*options)}


def tidy(sentence: str) -> str:
    return re.sub(r" +", " ", sentence).strip()
