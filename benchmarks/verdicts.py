"""What the rows of context_and_batch.py say about long texts, as claims that hold or do not."""

from __future__ import annotations

from as_table import number
from measurements import BASE, FIRST, LIMIT, NEXT, change

NEAR = 1.25  # of the time that a long text's step should take by its bytes
PROMPT = 8192  # tokens of the prompt that is compared with generate's, where there is one of that length


def verdicts(rows: list[dict]) -> list[dict]:
    """One dictionary for each claim and engine: ``claim``, ``holds``, and ``text`` with the numbers."""
    found = {(each["engine"], each["metric"], each["context"]): each for each in rows if _one_row(each)}
    engines = dict.fromkeys(engine for engine, *_ in found if engine != LIMIT)
    judged = [_long_step(engine, found) for engine in engines] + [_prefill(engine, found) for engine in engines]
    return [each for each in judged if each is not None]


def _one_row(each: dict) -> bool:
    return each["batch"] == 1 and each["median"] is not None


def _contexts(engine: str, metric: str, found: dict) -> set[int]:
    return {context for name, what, context in found if (name, what) == (engine, metric)}


def _long_step(engine: str, found: dict) -> dict | None:
    """Whether the step at the longest context takes what the shortest one's does, and reading the added bytes."""
    contexts = sorted(_contexts(engine, NEXT, found) & _contexts(LIMIT, NEXT, found))
    if len(contexts) < 2:
        return None
    short, long = contexts[0], contexts[-1]
    steps, least = ([found[name, NEXT, each]["median"] for each in (short, long)] for name in (engine, LIMIT))
    added = least[1] - least[0]
    expected = steps[0] + added
    ratio = f"{number(steps[1])} ms, {steps[1] / expected:.2f} of the {number(expected)} expected"
    sum_of = f"{number(steps[0])} at {short:,} tokens, and {number(added)} to read what the text adds"
    text = f"{engine}: a step at {long:,} tokens takes {ratio} ({sum_of})"
    claim = f"a long text's step is within {NEAR - 1:.0%} of what its bytes predict"
    return {"claim": claim, "holds": steps[1] <= NEAR * expected, "text": text}


def _prefill(engine: str, found: dict) -> dict | None:
    """Whether an engine reads a long prompt no slower than ``generate``, beyond the spread."""
    both = _contexts(engine, FIRST, found) & _contexts(BASE, FIRST, found)
    if engine == BASE or not both:
        return None
    context = PROMPT if PROMPT in both else max(both)
    base, own = (found[name, FIRST, context] for name in (BASE, engine))
    times = f"in {number(own['median'])} ms, {BASE}'s in {number(base['median'])}"
    text = f"{engine}: the first token after {context:,} comes {times}"
    slower = change(base, own)
    claim = f"a prompt of {context:,} tokens is read no slower than by {BASE}, or within the spread of the runs"
    return {"claim": claim, "holds": slower is None or slower > 0, "text": text}
