"""Functions that call themselves."""

# ruff: noqa: E501
import math
from itertools import chain, combinations
from itertools import permutations as all_permutations

from ..family import function

LISTS = [([1, 2, 3],), ([],), ([5],), ([3, -1, 4, -1, 5],), ([0, 0, 7],)]
L = "numbers|values|nums|items|xs"


def flat(nested):
    return [leaf for item in nested for leaf in (flat(item) if isinstance(item, list) else [item])]


def depth(nested):
    return 1 + max((depth(item) for item in nested if isinstance(item, list)), default=0)


FAMILIES = [
    function(
        "factorial_recursive", names="factorial_recursive recursive_factorial rec_factorial fact_rec factorial_rec", params="n|num|number|k|m",
        wordings="""
        [return] the factorial of $1 recursively
        recursive factorial of $1
        [return] the factorial of $1 [by|with|using] recursion
        [return] $1 times the factorial of $1 - 1
        compute $1! with a recursive call
        """,
        held_out="""
        [return] the factorial of a number with a function that calls itself
        recursively multiply the numbers from $1 down to 1
        """,
        body="""
        if $1 <= 1:
            return 1
        return $1 * $f($1 - 1)
        """,
        cases=[(n,) for n in range(9)], answer=math.factorial,
    ),
    function(
        "fibonacci_recursive", names="fibonacci_recursive recursive_fibonacci rec_fibonacci fib_rec fib_recursive", params="n|num|k|index|position",
        wordings="""
        [return] the $1-th Fibonacci number recursively
        recursive Fibonacci number [of|for] $1
        [return] the $1-th Fibonacci number [by|with|using] recursion
        [return] the sum of the two Fibonacci numbers before the $1-th
        """,
        held_out="""
        [return] Fibonacci number $1 with a function that calls itself
        recursively add the two previous Fibonacci numbers
        """,
        body="""
        if $1 < 2:
            return $1
        return $f($1 - 1) + $f($1 - 2)
        """,
        cases=[(n,) for n in range(12)], answer=lambda n: [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89][n],
    ),
    function(
        "sum_list_recursive", names="sum_list_recursive recursive_sum sum_recursive rec_sum sum_rec", params=L,
        wordings="""
        [return] the sum of [the list|] $1 recursively
        recursive sum of [the list|] $1
        [return] the sum of $1 [by|with|using] recursion
        [return] the first [element] of $1 plus the sum of the rest
        """,
        held_out="""
        add up the list $1 with a function that calls itself
        recursively total the [elements] of $1
        """,
        body="""
        if not $1:
            return 0
        return $1[0] + $f($1[1:])
        """,
        cases=LISTS, answer=sum,
    ),
    function(
        "max_recursive", names="max_recursive recursive_max rec_max max_rec recursive_maximum", params=L,
        wordings="""
        [return] the maximum of [the list|] $1 recursively
        recursive maximum of [the list|] $1
        [return] the [largest] [element] of $1 [by|with|using] recursion
        [return] the larger of the first [element] of $1 and the maximum of the rest
        """,
        held_out="""
        find the [largest] [element] of $1 with a function that calls itself
        recursively look for the maximum in $1
        """,
        body="""
        if len($1) == 1:
            return $1[0]
        rest = $f($1[1:])
        return $1[0] if $1[0] > rest else rest
        """,
        cases=[c for c in LISTS if c[0]], answer=max,
    ),
    function(
        "reverse_recursive", names="reverse_recursive recursive_reverse rec_reverse reverse_rec reverse_string_recursive", params="text|s|string|word|line",
        wordings="""
        reverse [the string|] $1 recursively
        [return] [the string|] $1 reversed [by|with|using] recursion
        [return] the reverse of $1 [by|with|using] recursion
        [return] the reversed rest of $1 followed by its first character
        """,
        held_out="""
        turn the string $1 around with a function that calls itself
        recursively put the [characters] of $1 in reverse order
        """,
        body="""
        if not $1:
            return ""
        return $f($1[1:]) + $1[0]
        """,
        cases=[("",), ("a",), ("abc",), ("level",), ("Hello World",)], answer=lambda s: s[::-1],
    ),
    function(
        "palindrome_recursive", names="palindrome_recursive recursive_palindrome is_palindrome_recursive is_palindrome_rec rec_palindrome", params="text|s|string|word|line",
        wordings="""
        [check] $1 is a palindrome recursively
        [check] $1 is a palindrome [by|with|using] recursion
        recursive palindrome test [for|of] $1
        [check] the first and last [characters] of $1 are equal and the inside is a palindrome
        """,
        held_out="""
        palindrome test for $1 with a function that calls itself
        recursively compare the ends of $1
        """,
        body="""
        if len($1) < 2:
            return True
        if $1[0] != $1[-1]:
            return False
        return $f($1[1:-1])
        """,
        cases=[("",), ("a",), ("ab",), ("level",), ("noon",), ("abca",)], answer=lambda s: s == s[::-1],
    ),
    function(
        "power_recursive", names="power_recursive recursive_power rec_power power_rec fast_power", params="base, exponent|a, b|x, n|x, exp|number, power",
        wordings="""
        [return] $1 to the power [of|] $2 recursively
        [return] $1 raised to $2 [by|with|using] recursion
        recursive power $1 ** $2
        [return] $1 times $1 to the power $2 - 1
        """,
        held_out="""
        [return] the power $1 ** $2 with a function that calls itself
        recursively multiply $1 by itself $2 times
        """,
        body="""
        if $2 == 0:
            return 1
        return $1 * $f($1, $2 - 1)
        """,
        cases=[(2, 0), (2, 1), (2, 10), (3, 4), (5, 3), (0, 3), (-2, 3)], answer=lambda a, b: a**b,
    ),
    function(
        "gcd_recursive", names="gcd_recursive recursive_gcd rec_gcd gcd_rec euclid_recursive", params="a, b|x, y|m, n|first, second",
        wordings="""
        [return] the greatest common divisor of $1 and $2 recursively
        [return] the gcd of $1 and $2 [by|with|using] recursion
        recursive [gcd|greatest common divisor] of $1 and $2
        [return] the gcd of $2 and the remainder of $1 by $2
        """,
        held_out="""
        greatest common divisor with a function that calls itself
        Euclid's algorithm for $1 and $2, recursively
        """,
        body="""
        if $2 == 0:
            return $1
        return $f($2, $1 % $2)
        """,
        cases=[(12, 18), (7, 3), (10, 5), (9, 9), (48, 36)], answer=math.gcd,
    ),
    function(
        "digit_sum_recursive", names="digit_sum_recursive recursive_digit_sum digits_rec digit_sum_rec sum_digits_recursive", params="n|num|number|value|k",
        wordings="""
        [return] the sum of the digits of $1 recursively
        [return] the digit sum of $1 [by|with|using] recursion
        recursive [digit sum|sum of the digits] of $1
        [return] the last digit of $1 plus the digit sum of the rest
        """,
        held_out="""
        add the digits of $1 with a function that calls itself
        recursively sum up the digits of the number $1
        """,
        body="""
        if $1 < 10:
            return $1
        return $1 % 10 + $f($1 // 10)
        """,
        cases=[(0,), (7,), (10,), (99,), (1234,)], answer=lambda n: sum(map(int, str(n))),
    ),
    function(
        "hanoi", names="hanoi towers_of_hanoi hanoi_moves tower_of_hanoi count_hanoi", params="n|disks|num|count|height",
        wordings="""
        [return] the number of moves [needed|] for the Towers of Hanoi with $1 disks
        [return] how many moves the Towers of Hanoi take with $1 disks
        count the moves that solve the Tower of Hanoi with $1 disks
        [return] the moves [needed|required] to shift a tower of $1 disks
        """,
        held_out="""
        how many moves does a Tower of Hanoi of $1 disks need?
        [return] the length of the solution of the Towers of Hanoi for $1 disks
        """,
        body="""
        if $1 == 0:
            return 0
        return 2 * $f($1 - 1) + 1
        """,
        cases=[(n,) for n in range(8)], answer=lambda n: 2**n - 1,
    ),
    function(
        "flatten_deep", names="flatten_deep deep_flatten flatten_nested flatten_recursive flatten_all", params="items|nested|data|values|xs",
        wordings="""
        flatten [the nested list|] $1 [of any depth|completely|recursively]
        [return] [all|the] [elements] of the nested list $1 in one [flat|] list
        flatten a list of lists of any depth
        recursively flatten [the nested list|] $1
        """,
        held_out="""
        make one flat list from the arbitrarily nested list $1
        [return] $1 without any inner lists, however deep
        """,
        body="""
        result = []
        for element in $1:
            if isinstance(element, list):
                result.extend($f(element))
            else:
                result.append(element)
        return result
        """,
        cases=[([],), ([1, [2, 3]],), ([[1, [2, [3, []]]], 4],), ([1, 2],)], answer=flat,
    ),
    function(
        "nesting_depth", names="nesting_depth list_depth max_depth depth depth_of", params="items|nested|data|values|xs",
        wordings="""
        [return] the [nesting depth|depth] of [the nested list|] $1
        [return] how deep[ly|] [the list|] $1 is nested
        [return] how many levels of lists there are in $1
        depth of the nested list $1
        """,
        held_out="""
        [return] the number of levels of the nested list $1
        how deep do the lists inside $1 go?
        """,
        body="""
        deepest = 0
        for element in $1:
            if isinstance(element, list):
                deepest = max(deepest, $f(element))
        return deepest + 1
        """,
        cases=[([],), ([1, [2, 3]],), ([[1, [2, [3, []]]], 4],), ([1, 2],)], answer=depth,
    ),
    function(
        "permutations", names="permutations all_permutations get_permutations permute generate_permutations", params="items|values|elements|xs|data",
        wordings="""
        [return] [all|the] permutations of $1
        [return] [a list of|] [all|the] orders of the [elements] in $1
        list [all|the] permutations of the list $1
        [make] [all|the] permutations of the [elements] of $1
        """,
        held_out="""
        [return] every way to order the [elements] of $1
        list each arrangement of $1
        """,
        body="""
        if not $1:
            return [[]]
        result = []
        for i in range(len($1)):
            for rest in $f($1[:i] + $1[i + 1:]):
                result.append([$1[i]] + rest)
        return result
        """,
        cases=[([],), ([1],), ([1, 2],), ([1, 2, 3],)], answer=lambda xs: [list(p) for p in all_permutations(xs)],
    ),
    function(
        "subsets", names="subsets all_subsets power_set powerset get_subsets", params="items|values|elements|xs|data",
        wordings="""
        [return] [all|the] subsets of $1
        [return] the power set of $1 [as a list of lists|]
        list [all|the] subsets of the list $1
        [make] [all|the] subsets of the [elements] of $1
        """,
        held_out="""
        [return] every selection of [elements] from $1
        list each subset of $1, the empty one first
        """,
        body="""
        if not $1:
            return [[]]
        rest = $f($1[:-1])
        return rest + [subset + [$1[-1]] for subset in rest]
        """,
        cases=[([],), ([1],), ([1, 2],), ([1, 2, 3],)],
        answer=lambda xs: sorted((list(c) for c in chain(*(combinations(xs, k) for k in range(len(xs) + 1)))), key=lambda s: sum(2 ** xs.index(v) for v in s)),
    ),
    function(
        "quick_sort", names="quick_sort quicksort sort_quick qsort quick_sorted", params=L,
        wordings="""
        sort [$1|a list|the list $1] with quicksort
        [return] $1 sorted with quicksort
        quicksort [of|for] [a list|$1]
        sort $1 by splitting it around a pivot
        """,
        held_out="""
        use quicksort to put $1 in order
        sort $1 recursively into smaller and larger [elements]
        """,
        body="""
        if len($1) < 2:
            return $1
        pivot = $1[0]
        smaller = [element for element in $1[1:] if element < pivot]
        larger = [element for element in $1[1:] if element >= pivot]
        return $f(smaller) + [pivot] + $f(larger)
        """,
        cases=LISTS, answer=sorted,
    ),
    function(
        "merge_sort", names="merge_sort mergesort sort_merge msort merge_sorted_halves", params=L,
        wordings="""
        sort [$1|a list|the list $1] with merge sort
        [return] $1 sorted with merge sort
        merge sort [of|for] [a list|$1]
        sort $1 by merging its sorted halves
        """,
        held_out="""
        use merge sort to put $1 in order
        sort both halves of $1 recursively and merge them
        """,
        body="""
        if len($1) < 2:
            return $1
        middle = len($1) // 2
        left = $f($1[:middle])
        right = $f($1[middle:])
        result = []
        while left and right:
            if left[0] <= right[0]:
                result.append(left.pop(0))
            else:
                result.append(right.pop(0))
        return result + left + right
        """,
        cases=LISTS, answer=sorted,
    ),
    function(
        "ackermann", names="ackermann ack ackermann_function compute_ackermann", params="m, n|a, b|x, y",
        wordings="""
        [return] the Ackermann function of $1 and $2
        the Ackermann function [for|of] $1 and $2
        [return] A($1, $2) [for|of] the Ackermann function
        [return] the value of Ackermann's function at $1 and $2
        """,
        held_out="""
        evaluate the Ackermann function at ($1, $2)
        [return] the Ackermann number of $1 and $2
        """,
        body="""
        if $1 == 0:
            return $2 + 1
        if $2 == 0:
            return $f($1 - 1, 1)
        return $f($1 - 1, $f($1, $2 - 1))
        """,
        cases=[(0, 0), (0, 5), (1, 0), (1, 3), (2, 2), (2, 3)], answer=lambda m, n: [n + 1, n + 2, 2 * n + 3][m],
    ),
    function(
        "binomial", names="binomial choose binomial_coefficient n_choose_k combinations_count", params="n, k|total, chosen|a, b",
        wordings="""
        [return] the binomial coefficient [of $1 and $2|$1 over $2]
        [return] $1 choose $2
        [return] the number of ways to choose $2 out of $1
        [return] in how many ways $2 [things|items] can be chosen from $1
        """,
        held_out="""
        how many ways are there to pick $2 of $1 [things|items]?
        binomial coefficient with $1 and $2 from Pascal's triangle
        """,
        body="""
        if $2 == 0 or $2 == $1:
            return 1
        return $f($1 - 1, $2 - 1) + $f($1 - 1, $2)
        """,
        cases=[(0, 0), (1, 0), (4, 2), (5, 5), (6, 3), (7, 1)], answer=math.comb,
    ),
]  # fmt: skip
