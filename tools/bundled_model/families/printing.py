"""Functions that print. What they print is compared word by word."""

# ruff: noqa: E501

from ..family import function

SMALL = [(n,) for n in (0, 1, 2, 3, 5, 7, 10, 15, 20, 30)]
N = "n|limit|num|end|k|maximum"
LISTS = [([],), ([3],), ([1, 2, 3],), ([5, -2, 8, 0],), ([4, 4, 9, 6, 7],)]
LIST = "numbers|values|items|nums|data|xs"

FAMILIES = [
    function(
        "print_primes", kind="print", params=N,
        names="print_prime print_primes show_primes display_primes print_prime_numbers primes_up_to_n write_primes print_all_primes",
        wordings="""
        [print] [all|all|all the|the] primes between 1 and $1
        [print] [all|all the|the] [primes|prime numbers] [up to|not exceeding|not larger than] $1
        [print] [all|all the|the] prime numbers between 1 and $1
        [print] [all|all the|the] [primes|prime numbers] from [1|2] [to|up to|through] $1
        [print] every prime [that is|] at most $1
        [print] each [number|integer] from 2 to $1 that is prime
        [print] [all|the] [numbers|integers] up to $1 that are prime
        """,
        held_out="""
        [print] the [primes|prime numbers] up to and including $1
        [print] [all|the] [primes|prime numbers] in the range 1 to $1
        [print] every prime number no bigger than $1
        """,
        body="""
        for i in range(2, $1 + 1):
            is_prime = True
            for j in range(2, int(i ** 0.5) + 1):
                if i % j == 0:
                    is_prime = False
                    break
            if is_prime:
                print(i)
        """,
        cases=[*SMALL, (50,), (100,)], answer=lambda n: [k for k in range(2, n + 1) if all(k % d for d in range(2, k))],
    ),
    function(
        "print_numbers", kind="print", params=N, names="print_numbers count_up print_integers show_numbers print_range display_numbers",
        wordings="""
        [print] [all|all the|the] [numbers|integers] from 1 to $1
        [print] [all|all the|the] [numbers|integers] between 1 and $1
        [print] the first $1 [natural|positive] [numbers|integers]
        count from 1 to $1 [and print each number|with prints]
        [print] 1, 2, 3 and so on up to $1
        """,
        held_out="""
        [print] every [number|integer] from 1 up to and including $1
        count up to $1 on the screen
        """,
        body="""
        for i in range(1, $1 + 1):
            print(i)
        """,
        cases=SMALL, answer=lambda n: list(range(1, n + 1)),
    ),
    function(
        "print_even", kind="print", params=N, names="print_even print_evens print_even_numbers show_even_numbers display_evens show_evens",
        wordings="""
        [print] [all|all the|the] even [numbers|integers] from [1|2] to $1
        [print] [all|all the|the] even [numbers|integers] between 1 and $1
        [print] [all|the] even [numbers|integers] [up to|not exceeding] $1
        [print] every second number from 2 to $1
        [print] 2, 4, 6 and so on up to $1
        """,
        held_out="""
        [print] every even [number|integer] that is at most $1
        [print] the [numbers|integers] from 1 to $1 that are even
        """,
        body="""
        for i in range(2, $1 + 1, 2):
            print(i)
        """,
        cases=SMALL, answer=lambda n: [k for k in range(1, n + 1) if k % 2 == 0],
    ),
    function(
        "print_odd", kind="print", params=N, names="print_odd print_odds print_odd_numbers show_odd_numbers display_odds show_odds",
        wordings="""
        [print] [all|all the|the] odd [numbers|integers] from 1 to $1
        [print] [all|all the|the] odd [numbers|integers] between 1 and $1
        [print] [all|the] odd [numbers|integers] [up to|not exceeding] $1
        [print] every second number from 1 to $1
        [print] 1, 3, 5 and so on up to $1
        """,
        held_out="""
        [print] every odd [number|integer] that is at most $1
        [print] the [numbers|integers] from 1 to $1 that are odd
        """,
        body="""
        for i in range(1, $1 + 1, 2):
            print(i)
        """,
        cases=SMALL, answer=lambda n: [k for k in range(1, n + 1) if k % 2],
    ),
    function(
        "print_squares", kind="print", params=N, names="print_squares show_squares display_squares print_square_numbers write_squares",
        wordings="""
        [print] the squares of [all|the] [numbers|integers] from 1 to $1
        [print] the first $1 [squares|square numbers]
        [print] i * i for [every|each] i from 1 to $1
        [print] the square of [each|every] number [up to $1|from 1 to $1]
        [print] 1, 4, 9 and so on up to $1 squared
        """,
        held_out="""
        [print] the [numbers|integers] 1 to $1 squared
        square every number between 1 and $1 and print it
        """,
        body="""
        for i in range(1, $1 + 1):
            print(i * i)
        """,
        cases=SMALL, answer=lambda n: [k**2 for k in range(1, n + 1)],
    ),
    function(
        "print_countdown", kind="print", params="n|start|num|seconds|k", names="countdown print_countdown count_down print_backwards show_countdown",
        wordings="""
        [print] the [numbers|integers] from $1 down to 1
        count down from $1 to 1
        [print] a countdown from $1 to 1
        [print] [all|the] [numbers|integers] from $1 to 1 in [descending|decreasing|reverse] order
        [print] $1, $1 - 1, and so on down to 1
        """,
        held_out="""
        count backwards from $1 to 1 and print each number
        [print] the [numbers|integers] 1 to $1, largest first
        """,
        body="""
        for i in range($1, 0, -1):
            print(i)
        """,
        cases=SMALL, answer=lambda n: list(range(1, n + 1))[::-1],
    ),
    function(
        "print_table", kind="print", params="n|num|number|x|k", names="print_table multiplication_table times_table print_times_table show_table",
        wordings="""
        [print] the multiplication table of $1 [from 1 to 10|up to 10]
        [print] the first ten multiples of $1
        [print] the times table of $1
        [print] $1 times 1, $1 times 2 and so on up to $1 times 10
        [print] the products of $1 with the numbers from 1 to 10
        """,
        held_out="""
        [print] the multiplication table for the number $1
        [print] $1 multiplied by [each of|] 1 to 10
        """,
        body="""
        for i in range(1, 11):
            print($1 * i)
        """,
        cases=[(1,), (2,), (7,), (0,), (12,)], answer=lambda n: [n * k for k in range(1, 11)],
    ),
    function(
        "print_fibonacci", kind="print", params="n|count|num|k|limit", names="print_fibonacci print_fib show_fibonacci fibonacci_series display_fibonacci",
        wordings="""
        [print] the first $1 Fibonacci numbers
        [print] the first $1 [numbers|terms|elements] of the Fibonacci [sequence|series]
        [print] $1 Fibonacci numbers, starting [with|from] 0
        [print] the Fibonacci [sequence|series] up to its $1-th term
        [print] 0, 1, 1, 2, 3, 5 and so on, $1 numbers in all
        """,
        held_out="""
        [print] as many as $1 Fibonacci numbers
        [print] the beginning of the Fibonacci [sequence|series], $1 terms long
        """,
        body="""
        a, b = 0, 1
        for _ in range($1):
            print(a)
            a, b = b, a + b
        """,
        cases=[(n,) for n in range(9)], answer=lambda n: [0, 1, 1, 2, 3, 5, 8, 13][:n],
    ),
    function(
        "fizzbuzz", kind="print", params=N, names="fizzbuzz fizz_buzz print_fizzbuzz play_fizzbuzz show_fizzbuzz",
        wordings="""
        [print] the numbers from 1 to $1 with Fizz for multiples of 3, Buzz for multiples of 5, FizzBuzz for both
        play FizzBuzz [from 1 to|up to] $1
        [print] FizzBuzz [for the numbers|] [from 1 to|up to] $1
        [print] 1 to $1, but Fizz for [multiples of|numbers divisible by] 3, Buzz for 5 and FizzBuzz for both
        """,
        held_out="""
        the FizzBuzz game up to $1
        [print] the numbers up to $1, replacing multiples of three by Fizz and of five by Buzz
        """,
        body="""
        for i in range(1, $1 + 1):
            if i % 15 == 0:
                print("FizzBuzz")
            elif i % 3 == 0:
                print("Fizz")
            elif i % 5 == 0:
                print("Buzz")
            else:
                print(i)
        """,
        cases=SMALL, answer=lambda n: ["Fizz" * (k % 3 < 1) + "Buzz" * (k % 5 < 1) or k for k in range(1, n + 1)],
    ),
    function(
        "print_list", kind="print", params=LIST, names="print_list print_items show_list print_elements print_each display_items",
        wordings="""
        [print] [all|the] [elements] of [$1|a list|the list $1]
        [print] [each|every] [element] of [$1|the list $1] on [its own|a separate|a new] line
        [print] [the list|] $1 one [element] per line
        [print] [all|] [elements] in $1 one after [the other|another]
        """,
        held_out="""
        [print] what is in the list $1, line by line
        go through $1 and print every [element]
        """,
        body="""
        for item in $1:
            print(item)
        """,
        cases=LISTS, answer=lambda xs: xs,
    ),
    function(
        "print_list_backwards", kind="print", params=LIST, names="print_reversed print_list_backwards print_in_reverse show_reversed print_from_end",
        wordings="""
        [print] the [elements] of $1 in reverse order
        [print] the list $1 [backwards|in reverse]
        [print] [all|the] [elements] of $1 from the last to the first
        [print] $1 starting [with|from] the last [element]
        """,
        held_out="""
        go through $1 from the end and print every [element]
        [print] the [elements] of a list, last one first
        """,
        body="""
        for item in reversed($1):
            print(item)
        """,
        cases=LISTS, answer=lambda xs: xs[::-1],
    ),
    function(
        "print_triangle", kind="print", params="n|rows|height|size|k", names="print_triangle print_stars star_triangle draw_triangle print_star_pattern",
        wordings="""
        [print] a triangle of stars with $1 rows
        [print] $1 rows of stars, each one star longer [than the row before|]
        draw a triangle of [stars|asterisks], $1 [lines|rows] high
        [print] 1 star, then 2 stars, up to $1 stars
        [print] a star triangle of height $1
        """,
        held_out="""
        draw $1 lines of stars that form a triangle
        [print] a right triangle made of $1 rows of asterisks
        """,
        body="""
        for i in range(1, $1 + 1):
            print("*" * i)
        """,
        cases=[(n,) for n in range(6)], answer=lambda n: ["*" * k for k in range(1, n + 1)],
    ),
    function(
        "print_divisors", kind="print", params="n|num|number|value|k", names="print_divisors show_divisors print_factors display_divisors write_divisors",
        wordings="""
        [print] [all|all the|the] divisors of $1
        [print] [all|the] [numbers|integers] that divide $1
        [print] every [number|integer] by which $1 is divisible
        [print] [all|all the|the] factors of [$1|the number $1]
        """,
        held_out="""
        [print] each divisor of the number $1
        [print] the [numbers|integers] from 1 to $1 that divide $1
        """,
        body="""
        for i in range(1, $1 + 1):
            if $1 % i == 0:
                print(i)
        """,
        cases=SMALL, answer=lambda n: [d for d in range(1, n + 1) if n // d * d == n],
    ),
    function(
        "print_dict", kind="print", params="d|mapping|table|data|scores|prices", names="print_dict print_dictionary show_dict print_pairs display_dict",
        wordings="""
        [print] [every|each] key of $1 with its value
        [print] [all|the] keys and values of [$1|the dictionary $1]
        [print] the [dictionary|dict] $1 one [pair|key and value] per line
        [print] [all|the] pairs of [key and value|keys and values] in $1
        """,
        held_out="""
        [print] what the dictionary $1 holds, line by line
        go through $1 and print every key and its value
        """,
        body="""
        for key, value in $1.items():
            print(key, value)
        """,
        cases=[({},), ({"a": 1},), ({"x": 3, "y": 4},), ({"one": "two", "k": 9, "z": 0},)], answer=lambda d: [t for k in d for t in (k, d[k])],
    ),
    function(
        "print_characters", kind="print", params="text|s|string|word|line", names="print_characters print_chars print_letters show_characters spell",
        wordings="""
        [print] [each|every] [character|letter] of $1 on [its own|a separate|a new] line
        [print] [all|the] [characters|letters] of $1 one [by one|per line]
        spell $1, one [character|letter] per line
        [print] the [string|text] $1 [character by character|letter by letter]
        """,
        held_out="""
        go through $1 and print every [character|letter]
        spell out the word $1 line by line
        """,
        body="""
        for char in $1:
            print(char)
        """,
        cases=[("",), ("a",), ("hello",), ("xyzzy",)], answer=lambda s: list(s),
    ),
]  # fmt: skip
