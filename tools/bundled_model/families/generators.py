"""Generators."""

# ruff: noqa: E501
import functools
import operator
from itertools import accumulate, count, islice, pairwise

from ..family import function

SMALL = [(n,) for n in (0, 1, 2, 3, 5, 7, 10, 15)]
LISTS = [([1, 2, 3],), ([],), ([5],), ([3, -1, 4, -1, 5],), ([2, 2, 7, 7, 7, 2],)]
N = "n|limit|num|end|k"
L = "items|values|numbers|data|xs"

FAMILIES = [
    function(
        "yield_numbers", kind="yield", names="number_generator generate_numbers iter_numbers yield_numbers counter_up_to", params=N,
        wordings="""
        [yield] the [numbers|integers] from 1 to $1
        generator of the [numbers|integers] from 1 to $1
        [yield] 1, 2, 3 and so on up to $1
        [yield] [all|the] [numbers|integers] between 1 and $1 one by one
        """,
        held_out="""
        [yield] every [number|integer] up to and including $1
        a generator that counts from 1 to $1
        """,
        body="""
        i = 1
        while i <= $1:
            yield i
            i += 1
        """,
        cases=SMALL, answer=lambda n: range(1, n + 1),
    ),
    function(
        "yield_countdown", kind="yield", names="countdown_generator generate_countdown iter_countdown yield_countdown count_down_from", params="n|start|num|k|top",
        wordings="""
        [yield] the [numbers|integers] from $1 down to 1
        generator of a countdown from $1 to 1
        [yield] $1, $1 - 1 and so on down to 1
        [yield] [numbers|integers] from $1 to 1 in decreasing order
        """,
        held_out="""
        [yield] a countdown that begins with $1
        a generator that counts backwards from $1 to 1
        """,
        body="""
        while $1 > 0:
            yield $1
            $1 -= 1
        """,
        cases=SMALL, answer=lambda n: range(n, 0, -1),
    ),
    function(
        "yield_even", kind="yield", names="even_generator generate_even iter_even yield_even_numbers evens", params=N,
        wordings="""
        [yield] the even [numbers|integers] up to $1
        generator of the even [numbers|integers] from 2 to $1
        [yield] 2, 4, 6 and so on up to $1
        [yield] [all|the] even [numbers|integers] between 1 and $1
        """,
        held_out="""
        [yield] every even [number|integer] that is not larger than $1
        a generator of even numbers that ends at $1
        """,
        body="""
        for i in range(2, $1 + 1, 2):
            yield i
        """,
        cases=SMALL, answer=lambda n: [k for k in range(1, n + 1) if k % 2 == 0],
    ),
    function(
        "yield_squares", kind="yield", names="square_generator generate_squares iter_squares yield_squares squares_up_to", params=N,
        wordings="""
        [yield] the squares of the [numbers|integers] from 1 to $1
        generator of the first $1 [squares|square numbers]
        [yield] 1, 4, 9 and so on up to $1 squared
        [yield] the first $1 [squares|square numbers] one by one
        """,
        held_out="""
        [yield] the square of every number up to $1
        a generator that gives $1 square numbers
        """,
        body="""
        for i in range(1, $1 + 1):
            yield i * i
        """,
        cases=SMALL, answer=lambda n: [k**2 for k in range(1, n + 1)],
    ),
    function(
        "yield_fibonacci", kind="yield", names="fibonacci_generator generate_fibonacci iter_fibonacci yield_fibonacci fib_generator", params="n|count|num|k|amount",
        wordings="""
        [yield] the first $1 Fibonacci numbers
        generator of the first $1 Fibonacci numbers
        [yield] $1 [numbers|terms] of the Fibonacci [sequence|series]
        [yield] $1 Fibonacci numbers one by one
        """,
        held_out="""
        [yield] 0, 1, 1, 2, 3 and so on, $1 numbers in all
        a generator that gives $1 Fibonacci numbers
        """,
        body="""
        a, b = 0, 1
        for _ in range($1):
            yield a
            a, b = b, a + b
        """,
        cases=SMALL, answer=lambda n: [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377][:n],
    ),
    function(
        "yield_primes", kind="yield", names="prime_generator generate_prime_numbers iter_primes yield_primes primes_iterator", params=N,
        wordings="""
        [yield] the primes up to $1
        generator of [the|all] [primes|prime numbers] from 2 to $1
        [yield] [all|the] prime numbers between 1 and $1
        [yield] [all|the] [primes|prime numbers] not larger than $1 one by one
        """,
        held_out="""
        [yield] every prime number that is at most $1
        a generator of primes that ends at $1
        """,
        body="""
        for i in range(2, $1 + 1):
            if all(i % j != 0 for j in range(2, int(i ** 0.5) + 1)):
                yield i
        """,
        cases=[*SMALL, (30,), (100,)], answer=lambda n: [k for k in range(2, n + 1) if all(k % d for d in range(2, k))],
    ),
    function(
        "yield_chunks", kind="yield", names="chunk_generator iter_chunks yield_chunks generate_chunks batches", params="items, size|values, n|data, length|xs, k",
        wordings="""
        [yield] [chunks|pieces|parts] of $1 with length $2
        generator of [chunks|pieces|parts] of $1 of size $2
        [yield] $2 [elements] of $1 at a time
        [yield] consecutive [chunks|pieces|parts] of $2 [elements] from $1
        """,
        held_out="""
        [yield] the list $1 in portions of $2 [elements]
        a generator that cuts $1 into lists of $2
        """,
        body="""
        for i in range(0, len($1), $2):
            yield $1[i:i + $2]
        """,
        cases=[([1, 2, 3, 4, 5], 2), ([], 3), ([1, 2, 3], 3), ([1, 2], 5)],
        answer=lambda xs, k: [[x for i, x in enumerate(xs) if i // k == g] for g in range((len(xs) + k - 1) // k)],
    ),
    function(
        "yield_pairs", kind="yield", names="pair_generator neighbours iter_pairs yield_pairs adjacent_pairs", params=L,
        wordings="""
        [yield] pairs of neighbouring [elements] of $1
        generator of the pairs of adjacent [elements] in $1
        [yield] [each|every] [element] of $1 with the [next one|one after it]
        [yield] consecutive pairs from $1
        """,
        held_out="""
        [yield] two adjacent [elements] of $1 at a time as a tuple
        a generator of all neighbours in $1
        """,
        body="""
        for i in range(len($1) - 1):
            yield $1[i], $1[i + 1]
        """,
        cases=LISTS, answer=lambda xs: pairwise(xs),
    ),
    function(
        "yield_running_total", kind="yield", names="running_totals iter_sums yield_running_total generate_sums total_generator", params=L,
        wordings="""
        [yield] the running total of $1
        generator of the running totals of $1
        [yield] the sum so far for [each|every] [element] of $1
        [yield] the cumulative sums of $1
        """,
        held_out="""
        [yield] after each [element] of $1 the total up to it
        a generator that adds up $1 step by step
        """,
        body="""
        total = 0
        for element in $1:
            total += element
            yield total
        """,
        cases=LISTS, answer=accumulate,
    ),
    function(
        "yield_unique", kind="yield", names="unique_generator iter_unique yield_unique generate_unique without_repeats", params=L,
        wordings="""
        [yield] the [elements] of $1 without repetitions
        generator of the [different|unique|distinct] [elements] of $1
        [yield] [each|every] [element] of $1 only once
        [yield] [elements] of $1 that were not seen before
        """,
        held_out="""
        [yield] what is new among the [elements] of $1
        a generator over $1 that skips duplicates
        """,
        body="""
        seen = set()
        for element in $1:
            if element not in seen:
                seen.add(element)
                yield element
        """,
        cases=LISTS, answer=dict.fromkeys,
    ),
    function(
        "yield_flat", kind="yield", names="flat_generator iter_flat yield_flat generate_flat chain_lists", params="lists|nested|rows|groups|parts",
        wordings="""
        [yield] [all|the] [elements] of the lists in $1
        generator of the [elements] of [all|the] lists in $1
        [yield] the [elements] of [each|every] list in $1 one after the other
        [yield] [all|the] [elements] of the list of lists $1
        """,
        held_out="""
        [yield] everything that the inner lists of $1 hold
        a generator that flattens $1
        """,
        body="""
        for inner in $1:
            for element in inner:
                yield element
        """,
        cases=[([],), ([[1], [2, 3]],), ([[], [4], []],), ([[1, 2], [3, 4], [5]],)], answer=lambda xs: functools.reduce(operator.iadd, xs, []),
    ),
    function(
        "yield_reversed", kind="yield", names="reverse_generator iter_reversed yield_reversed generate_backwards backward", params=L,
        wordings="""
        [yield] the [elements] of $1 in reverse order
        generator of the [elements] of $1 from the last to the first
        [yield] $1 backwards
        [yield] the [elements] of $1 starting with the last one
        """,
        held_out="""
        [yield] what is in $1, last [element] first
        a generator that goes through $1 from the end
        """,
        body="""
        for i in range(len($1) - 1, -1, -1):
            yield $1[i]
        """,
        cases=LISTS, answer=reversed,
    ),
    function(
        "count_from", kind="yield", names="count_from infinite_counter count_forever endless_counter naturals_from", params="start|n|first|begin",
        wordings="""
        [yield] $1, $1 + 1, $1 + 2 and so on [forever|without end]
        [yield] [all|the] integers from $1 on
        endless generator of [numbers|integers] starting [at|from] $1
        count from $1 [forever|without end]
        """,
        held_out="""
        an infinite generator that counts up from $1
        [yield] whole numbers that begin with $1 and never end
        """,
        body="""
        while True:
            yield $1
            $1 += 1
        """,
        cases=[(0,), (1,), (10,), (-3,)], answer=lambda n: islice(count(n), 2000),
    ),
    function(
        "yield_words", kind="yield", names="word_generator iter_words yield_words generate_words each_word", params="text|s|sentence|line|string",
        wordings="""
        [yield] the words of $1
        generator of the words in [$1|a text|a sentence]
        [yield] [each|every] word of $1 one by one
        [yield] [all|the] words in the [string|text] $1
        """,
        held_out="""
        [yield] $1 word by word
        a generator over the words of the text $1
        """,
        body="""
        for word in $1.split():
            yield word
        """,
        cases=[("",), ("one",), ("two words",), ("  a b  c ",)], answer=lambda s: s.split(),
    ),
    function(
        "yield_enumerate", kind="yield", names="my_enumerate enumerate_items with_index yield_indexed numbered", params=L,
        wordings="""
        [yield] [each|every] [element] of $1 with its [index|position]
        [yield] pairs of index and [element] of $1
        generator of the [elements] of $1 together with their [index|position]
        [yield] [tuples|pairs] (index, element) for $1
        """,
        held_out="""
        [yield] what is in $1 along with its number, from 0
        a generator like enumerate for $1
        """,
        body="""
        index = 0
        for element in $1:
            yield index, element
            index += 1
        """,
        cases=LISTS, answer=enumerate,
    ),
]  # fmt: skip
