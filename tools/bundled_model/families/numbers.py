"""Functions of numbers."""

# ruff: noqa: E501

import math
from fractions import Fraction

from ..family import function

NATURAL = [(n,) for n in (0, 1, 2, 3, 4, 5, 9, 10, 12, 17, 25, 28, 36, 49, 97, 100)]
POSITIVE = NATURAL[1:]
WHOLE = [(n,) for n in (0, 1, 7, 10, 42, 99, 100, 121, 305, 1221, 9876)]
PAIRS = [(1, 2), (7, 3), (12, 18), (10, 5), (9, 9), (100, 35), (17, 4), (48, 36), (5, 11)]
ONE = "n|num|number|x|value|k"
TWO = "a, b|x, y|m, n|first, second|left, right"

FAMILIES = [
    function(
        "is_prime", names="is_prime check_prime prime_check is_prime_number test_prime isprime", params=ONE,
        wordings="""
        [check] $1 is [prime|a prime|a prime number]
        [check] the number $1 is prime
        [check] a number is [prime|a prime number]
        [check] $1 has no divisors other than 1 and itself
        return True [if|when] $1 is a prime, [otherwise False|False otherwise|else False]
        primality test [for|of] $1
        is $1 a prime number?
        """,
        held_out="""
        [check] the [given|] [integer|number] is a prime
        test $1 for primality
        answer whether $1 can only be divided by 1 and itself
        """,
        body="""
        if $1 < 2:
            return False
        for i in range(2, int($1 ** 0.5) + 1):
            if $1 % i == 0:
                return False
        return True
        """,
        cases=[*NATURAL, (121,), (-7,)], answer=lambda n: n > 1 and all(n % d for d in range(2, n)),
    ),
    function(
        "is_even", names="is_even even check_even is_even_number even_number", params=ONE,
        wordings="""
        [check] $1 is even
        [check] $1 is an even number
        [check] a number is even
        [check] $1 [is divisible by|can be divided by] 2
        return True [if|when] the number $1 is even, else False
        is $1 even?
        """,
        held_out="""
        [check] the [number|integer] is even
        [check] dividing $1 by two leaves no remainder
        """,
        body="return $1 % 2 == 0", cases=[*NATURAL, (-2,), (-3,)], answer=lambda n: str(n)[-1] in "02468",
    ),
    function(
        "is_odd", names="is_odd odd check_odd is_odd_number odd_number", params=ONE,
        wordings="""
        [check] $1 is odd
        [check] $1 is an odd number
        [check] a number is odd
        [check] $1 is not [divisible by|a multiple of] 2
        return True [if|when] the number $1 is odd, else False
        is $1 odd?
        """,
        held_out="""
        [check] the [number|integer] is odd
        [check] dividing $1 by two leaves a remainder of one
        """,
        body="return $1 % 2 == 1", cases=[*NATURAL, (-2,), (-3,)], answer=lambda n: str(n)[-1] in "13579",
    ),
    function(
        "factorial", names="factorial fact compute_factorial factorial_of n_factorial factorial_loop", params="n|num|number|k|m",
        wordings="""
        [return] the factorial of $1
        [return] $1 factorial
        [return] the factorial of a number
        [return] the product of [all|all the|the] [integers|numbers|whole numbers] from 1 to $1
        [return] $1!
        multiply [all|the] [integers|numbers] from 1 to $1
        factorial of $1
        """,
        held_out="""
        [return] the factorial of the [given|] [integer|number] $1
        [return] 1 * 2 * ... * $1
        """,
        body="""
        result = 1
        for i in range(2, $1 + 1):
            result *= i
        return result
        """,
        cases=[(n,) for n in range(9)], answer=math.factorial,
    ),
    function(
        "fibonacci", names="fibonacci fib nth_fibonacci fibonacci_number get_fibonacci fib_number", params="n|num|k|index|position",
        wordings="""
        [return] the $1-th Fibonacci number
        [return] the Fibonacci number at position $1
        [return] the n-th Fibonacci number
        [return] the Fibonacci number of index $1
        [return] element $1 of the Fibonacci [sequence|series]
        [return] the $1-th [term|element] of the Fibonacci [sequence|series]
        """,
        held_out="""
        [return] Fibonacci number $1
        [return] the Fibonacci number [number|with index] $1, starting from 0 and 1
        """,
        body="""
        a, b = 0, 1
        for _ in range($1):
            a, b = b, a + b
        return a
        """,
        cases=[(n,) for n in range(12)], answer=lambda n: [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89][n],
    ),
    function(
        "gcd", names="gcd greatest_common_divisor compute_gcd gcd_of_two euclid euclid_gcd", params=TWO,
        wordings="""
        [return] the greatest common divisor of $1 and $2
        [return] the [greatest|largest|biggest] [number|integer] that divides both $1 and $2
        [return] the gcd of $1 and $2
        [return] the GCD of two [numbers|integers]
        [return] the greatest common divisor with Euclid's algorithm
        greatest common divisor of [two numbers|two integers|$1 and $2]
        [return] the highest common factor of $1 and $2
        """,
        held_out="""
        [return] the greatest common divisor of two [numbers|integers]
        Euclid's algorithm for $1 and $2
        """,
        body="""
        while $2:
            $1, $2 = $2, $1 % $2
        return $1
        """,
        cases=PAIRS, answer=math.gcd,
    ),
    function(
        "lcm", names="lcm least_common_multiple compute_lcm lcm_of_two smallest_common_multiple", params="a, b|m, n|first, second|p, q",
        wordings="""
        [return] the least common multiple of $1 and $2
        [return] the [smallest|lowest] [number|integer] [that is divisible by|divisible by] both $1 and $2
        [return] the lcm of $1 and $2
        [return] the LCM of two [numbers|integers]
        least common multiple of [two numbers|two integers|$1 and $2]
        [return] the [smallest|lowest] common multiple of $1 and $2
        """,
        held_out="""
        [return] the least common multiple of two [numbers|integers]
        [return] the smallest positive number that both $1 and $2 divide
        """,
        body="""
        x, y = $1, $2
        while y:
            x, y = y, x % y
        return $1 * $2 // x
        """,
        cases=PAIRS, answer=math.lcm,
    ),
    function(
        "sum_of_digits", names="sum_of_digits digit_sum sum_digits add_digits digits_sum total_of_digits", params="n|num|number|value|k",
        wordings="""
        [return] the sum of the digits of $1
        [return] the sum of [all|all the|the] digits in $1
        [return] the sum of the digits of a number
        add up [the|all the|all] digits of [$1|a number|the number $1]
        [return] the digit sum of $1
        [return] the total of the decimal digits of $1
        """,
        held_out="""
        [return] the sum of the digits of the number
        add the digits of $1 [together|to each other]
        """,
        body="""
        total = 0
        while $1 > 0:
            total += $1 % 10
            $1 //= 10
        return total
        """,
        cases=WHOLE, answer=lambda n: sum(map(int, str(n))),
    ),
    function(
        "count_digits", names="count_digits number_of_digits num_digits digit_count how_many_digits", params="n|num|number|value|k",
        wordings="""
        [return] the number of digits of $1
        [count] digits in $1
        count the digits of [$1|a number|the number $1]
        how many digits $1 has
        [return] how many digits [there are in $1|$1 has]
        [return] the number of decimal digits of $1
        """,
        held_out="""
        [return] the number of digits in [a|the] number
        how many digits are there in $1?
        """,
        body="return len(str($1))", cases=WHOLE, answer=lambda n: 1 if n < 10 else int(math.log10(n)) + 1,
    ),
    function(
        "reverse_number", names="reverse_number reverse_digits reversed_number reverse_integer flip_digits", params="n|num|number|value|k",
        wordings="""
        [return] $1 with its digits [reversed|in reverse order|backwards]
        reverse the digits of [$1|a number|the number $1]
        [return] the number with the digits of $1 in reverse order
        [return] the reverse of the number $1
        read the digits of $1 backwards
        [return] the [integer|number] whose digits are those of $1 [reversed|backwards]
        """,
        held_out="""
        reverse the digits of the [given|] integer
        [return] the digits of $1 from right to left, as a number
        """,
        body="""
        result = 0
        while $1 > 0:
            result = result * 10 + $1 % 10
            $1 //= 10
        return result
        """,
        cases=WHOLE, answer=lambda n: int(str(n)[::-1]),
    ),
    function(
        "is_palindrome_number", names="is_palindrome_number palindrome_number is_palindromic_number check_palindrome_number numeric_palindrome",
        params="n|num|number|value|k",
        wordings="""
        [check] the number $1 is a palindrome
        [check] the digits of $1 read the same [backwards|in both directions|forwards and backwards]
        [check] a number is a palindrome
        [check] the number $1 is palindromic
        [check] $1 equals the number with its digits reversed
        [check] the integer $1 is a palindrome
        """,
        held_out="""
        [check] a number reads the same forwards and backwards
        [check] $1 is a palindromic number
        """,
        body="""
        digits = str($1)
        return digits == digits[::-1]
        """,
        cases=WHOLE, answer=lambda n: all(str(n)[i] == str(n)[-1 - i] for i in range(len(str(n)))),
    ),
    function(
        "is_perfect", names="is_perfect is_perfect_number perfect_number check_perfect perfect", params="n|num|number|value|k",
        wordings="""
        [check] $1 is a perfect number
        [check] $1 is perfect
        [check] $1 equals the sum of its proper divisors
        [check] a number is perfect
        [check] the proper divisors of $1 add up to $1
        return True [if|when] $1 is the sum of its [proper|smaller] divisors
        """,
        held_out="""
        [check] the number is a perfect number
        [check] the divisors of $1, without $1 itself, sum to $1
        """,
        body="""
        if $1 < 2:
            return False
        total = 0
        for i in range(1, $1):
            if $1 % i == 0:
                total += i
        return total == $1
        """,
        cases=[*NATURAL, (6,), (496,)], answer=lambda n: n in (6, 28, 496),
    ),
    function(
        "divisors", names="divisors get_divisors find_divisors list_divisors all_divisors factors get_factors", params="n|num|number|value|k",
        wordings="""
        [return] [all|all the|the] divisors of $1
        [return] the list of [the|all] divisors of $1
        [return] [all|the] numbers that divide $1
        list [all|all the|the] divisors of [$1|a number]
        [return] [all|all the|the] factors of $1
        [make] [a|the] list of [the|all] numbers by which $1 can be divided
        """,
        held_out="""
        [return] every number that divides $1 [evenly|without remainder]
        [return] the divisors of the number in a list
        """,
        body="""
        result = []
        for i in range(1, $1 + 1):
            if $1 % i == 0:
                result.append(i)
        return result
        """,
        cases=POSITIVE, answer=lambda n: [d for d in range(1, n + 1) if not n % d],
    ),
    function(
        "count_divisors", names="count_divisors number_of_divisors num_divisors divisor_count how_many_divisors", params="n|num|number|value|k",
        wordings="""
        [count] divisors of $1
        [return] the number of divisors of $1
        [return] how many divisors $1 has
        [return] how many numbers divide $1
        count [all|all the|the] [divisors|factors] of [a number|$1]
        how many divisors $1 has
        """,
        held_out="""
        [return] the number of divisors of a number
        count the numbers that divide $1
        """,
        body="""
        count = 0
        for i in range(1, $1 + 1):
            if $1 % i == 0:
                count += 1
        return count
        """,
        cases=POSITIVE, answer=lambda n: sum(n % d == 0 for d in range(1, n + 1)),
    ),
    function(
        "prime_factors", names="prime_factors get_prime_factors factorize prime_factorization find_prime_factors factorise", params="n|num|number|value|k",
        wordings="""
        [return] the prime factors of $1
        [return] [the|a] list of the prime factors of $1
        factor $1 into primes
        [return] the prime factorization of $1
        [return] the primes whose product is $1
        split $1 into [its|] prime factors
        """,
        held_out="""
        [return] all prime factors of [a|the] number
        decompose $1 into a product of primes
        """,
        body="""
        result = []
        d = 2
        while d * d <= $1:
            while $1 % d == 0:
                result.append(d)
                $1 //= d
            d += 1
        if $1 > 1:
            result.append($1)
        return result
        """,
        cases=[(2,), (3,), (4,), (12,), (17,), (60,), (97,), (100,), (1001,)],
        answer={2: [2], 3: [3], 4: [2, 2], 12: [2, 2, 3], 17: [17], 60: [2, 2, 3, 5], 97: [97], 100: [2, 2, 5, 5], 1001: [7, 11, 13]}.get,
    ),
    function(
        "primes_upto", names="primes_up_to get_primes find_primes list_primes all_primes primes_below_or_equal generate_primes", params="n|limit|num|end|maximum",
        wordings="""
        [return] [all|all the|the] [primes|prime numbers] [up to|not exceeding|not larger than] $1
        [return] [a|the] list of [all|the|] [primes|prime numbers] from [1|2] to $1
        [return] [all|all the|the] [primes|prime numbers] between 1 and $1
        [make] [a|the] list of [all|the] [primes|prime numbers] up to $1
        [return] every prime that is at most $1
        list of [the|all] [primes|prime numbers] up to $1
        """,
        held_out="""
        [return] the [primes|prime numbers] from 2 to $1 inclusive
        collect [all|] the primes up to and including $1
        """,
        body="""
        primes = []
        for i in range(2, $1 + 1):
            is_prime = True
            for j in range(2, int(i ** 0.5) + 1):
                if i % j == 0:
                    is_prime = False
                    break
            if is_prime:
                primes.append(i)
        return primes
        """,
        cases=NATURAL, answer=lambda n: [k for k in range(2, n + 1) if all(k % d for d in range(2, k))],
    ),
    function(
        "next_prime", names="next_prime find_next_prime prime_after following_prime get_next_prime", params="n|num|number|value|start",
        wordings="""
        [return] the [next|first|smallest] prime [after|greater than|larger than] $1
        [return] the [next|first] prime number after $1
        [return] the smallest prime [above|bigger than] $1
        [return] the prime that follows $1
        [return] the next prime number
        """,
        held_out="""
        [return] the first prime number larger than $1
        which prime comes after $1?
        """,
        body="""
        candidate = $1 + 1
        while True:
            if candidate > 1 and all(candidate % d != 0 for d in range(2, candidate)):
                return candidate
            candidate += 1
        """,
        cases=[(0,), (1,), (2,), (3,), (7,), (13,), (24,), (89,)], answer={0: 2, 1: 2, 2: 3, 3: 5, 7: 11, 13: 17, 24: 29, 89: 97}.get,
    ),
    function(
        "sum_to_n", names="sum_to_n sum_up_to sum_first_n sum_integers gauss_sum triangular_number", params="n|num|limit|last|k",
        wordings="""
        [return] the sum of [all|all the|the] [numbers|integers] from 1 to $1
        [return] the sum of the first $1 [natural|positive] [numbers|integers]
        add up [all|the] [numbers|integers] from 1 to $1
        [return] 1 + 2 + ... + $1
        [return] the sum of the [numbers|integers] up to $1
        [return] the $1-th triangular number
        """,
        held_out="""
        sum the [numbers|integers] 1 to $1
        [return] the total of all [numbers|integers] between 1 and $1
        """,
        body="""
        total = 0
        for i in range(1, $1 + 1):
            total += i
        return total
        """,
        cases=NATURAL, answer=lambda n: n * (n + 1) // 2,
    ),
    function(
        "sum_of_squares", names="sum_of_squares sum_squares squares_sum add_squares sum_of_first_squares", params="n|num|limit|last|k",
        wordings="""
        [return] the sum of the squares of the [numbers|integers] from 1 to $1
        [return] the sum of the first $1 squares
        add up the squares of [all|the] [numbers|integers] from 1 to $1
        [return] 1 + 4 + 9 + ... + $1 * $1
        [return] the sum of the squares up to $1 squared
        """,
        held_out="""
        [return] the sum of squares of the first $1 [natural|positive] numbers
        square the numbers 1 to $1 and add them
        """,
        body="""
        total = 0
        for i in range(1, $1 + 1):
            total += i * i
        return total
        """,
        cases=NATURAL, answer=lambda n: n * (n + 1) * (2 * n + 1) // 6,
    ),
    function(
        "sum_even_upto", names="sum_even_numbers sum_evens sum_of_evens even_sum add_even_numbers", params="n|num|limit|last|k",
        wordings="""
        [return] the sum of [all|all the|the] even [numbers|integers] [up to|from 1 to] $1
        [return] the sum of [all|the] even [numbers|integers] between 1 and $1
        add up [all|the] even [numbers|integers] up to $1
        [return] 2 + 4 + 6 + ... up to $1
        [return] the total of the even numbers not larger than $1
        """,
        held_out="""
        sum the even [numbers|integers] from 1 to $1
        [return] the sum of every even number up to and including $1
        """,
        body="""
        total = 0
        for i in range(2, $1 + 1, 2):
            total += i
        return total
        """,
        cases=NATURAL, answer=lambda n: (n // 2) * (n // 2 + 1),
    ),
    function(
        "power", names="power compute_power raise_to_power pow_loop to_the_power exponentiate", params="base, exponent|a, b|x, n|x, exp|number, power",
        wordings="""
        [return] $1 to the power [of|] $2
        [return] $1 raised to [the power|] $2
        raise $1 to the power [of|] $2
        multiply $1 by itself $2 times
        [return] $1 ** $2
        [return] the $2-th power of $1
        """,
        held_out="""
        [return] the power $1 ** $2
        [return] $1 to the $2-th power
        """,
        body="""
        result = 1
        for _ in range($2):
            result *= $1
        return result
        """,
        cases=[(2, 0), (2, 1), (2, 10), (3, 4), (5, 3), (10, 2), (1, 9), (0, 3), (-2, 3)], answer=lambda a, b: a**b,
    ),
    function(
        "absolute", names="absolute absolute_value abs_value my_abs get_absolute magnitude", params="x|n|num|number|value",
        wordings="""
        [return] the absolute value of $1
        [return] the absolute value of a number
        [return] $1 without its sign
        [return] the magnitude of $1
        [return] $1 if it is positive, otherwise -$1
        absolute value of [$1|a number]
        """,
        held_out="""
        [return] the absolute value of the number
        [return] the distance of $1 from zero
        """,
        body="""
        if $1 < 0:
            return -$1
        return $1
        """,
        cases=[(0,), (5,), (-5,), (2.5,), (-0.5,)], answer=abs,
    ),
    function(
        "sign", names="sign get_sign signum sign_of number_sign", params="x|n|num|number|value",
        wordings="""
        [return] the sign of $1
        [return] 1 if $1 is positive, -1 if it is negative and 0 if it is zero
        return -1, 0 or 1 [depending on|according to|for] the sign of $1
        [return] the sign of a number
        sign of $1 as -1, 0 or 1
        """,
        held_out="""
        [return] the sign of the number as -1, 0 or 1
        tell if $1 is negative (-1), zero (0) or positive (1)
        """,
        body="""
        if $1 > 0:
            return 1
        if $1 < 0:
            return -1
        return 0
        """,
        cases=[(0,), (5,), (-5,), (2.5,), (-0.5,)], answer=lambda x: (x > 0) - (x < 0),
    ),
    function(
        "max_of_two", names="max_of_two larger_of_two maximum_of_two bigger max_two larger", params="a, b|x, y|first, second|m, n|p, q",
        wordings="""
        [return] the [larger|bigger|greater] of $1 and $2
        [return] the maximum of $1 and $2
        [return] the [larger|bigger] of two numbers
        [return] the maximum of two [numbers|values]
        return $1 if it is [larger|bigger] than $2, else $2
        """,
        held_out="""
        [return] the greater of two [numbers|values]
        which of $1 and $2 is larger?
        """,
        body="""
        if $1 > $2:
            return $1
        return $2
        """,
        cases=[*PAIRS, (-1, -2), (2, 1)], answer=max,
    ),
    function(
        "max_of_three", names="max_of_three largest_of_three maximum_of_three biggest_of_three max_three", params="a, b, c|x, y, z|first, second, third|p, q, r",
        wordings="""
        [return] the [largest|biggest|greatest] of $1, $2 and $3
        [return] the maximum of $1, $2 and $3
        [return] the [largest|biggest] of three numbers
        [return] the maximum of three [numbers|values]
        maximum of $1, $2 and $3
        """,
        held_out="""
        [return] the greatest of three [numbers|values]
        which of $1, $2, $3 is the largest?
        """,
        body="""
        result = $1
        if $2 > result:
            result = $2
        if $3 > result:
            result = $3
        return result
        """,
        cases=[(1, 2, 3), (3, 2, 1), (2, 3, 1), (5, 5, 1), (-1, -5, -3), (0, 0, 0)], answer=lambda *xs: sorted(xs)[-1],
    ),
    function(
        "is_leap_year", names="is_leap_year leap_year is_leap check_leap_year leap", params="year|y|n",
        wordings="""
        [check] $1 is a leap year
        [check] the year $1 is a leap year
        [check] a year is a leap year
        return True for [a leap year|leap years], False for [other|common] years
        [check] $1 has 366 days
        """,
        held_out="""
        [check] the given year is a leap year
        is the year $1 a leap year?
        """,
        body="return $1 % 4 == 0 and ($1 % 100 != 0 or $1 % 400 == 0)",
        cases=[(1900,), (2000,), (2023,), (2024,), (2100,), (1996,), (2001,)], answer=lambda y: y in (2000, 2024, 1996),
    ),
    function(
        "celsius_to_fahrenheit", names="celsius_to_fahrenheit to_fahrenheit c_to_f convert_to_fahrenheit celsius2fahrenheit",
        params="celsius|c|temperature|degrees|temp",
        wordings="""
        convert $1 from [degrees|] Celsius to Fahrenheit
        convert [a temperature|degrees] from Celsius to Fahrenheit
        convert [degrees|] Celsius to [degrees|] Fahrenheit
        [return] the temperature $1 in [degrees|] Fahrenheit
        turn degrees Celsius into degrees Fahrenheit
        """,
        held_out="""
        convert a Celsius temperature to Fahrenheit
        [return] the Fahrenheit temperature for $1 degrees Celsius
        """,
        body="return $1 * 9 / 5 + 32", cases=[(0,), (100,), (-40,), (37,), (20.5,)],
        answer=lambda c: float(Fraction(c) * Fraction(9, 5) + 32),
    ),
    function(
        "fahrenheit_to_celsius", names="fahrenheit_to_celsius to_celsius f_to_c convert_to_celsius fahrenheit2celsius",
        params="fahrenheit|temperature|degrees|temp|t",
        wordings="""
        convert $1 from [degrees|] Fahrenheit to Celsius
        convert [a temperature|degrees] from Fahrenheit to Celsius
        convert [degrees|] Fahrenheit to [degrees|] Celsius
        [return] the temperature $1 in [degrees|] Celsius
        turn degrees Fahrenheit into degrees Celsius
        """,
        held_out="""
        convert a Fahrenheit temperature to Celsius
        [return] the Celsius temperature for $1 degrees Fahrenheit
        """,
        body="return ($1 - 32) * 5 / 9", cases=[(32,), (212,), (-40,), (98.6,), (68,)],
        answer=lambda f: float((Fraction(f) - 32) * Fraction(5, 9)),
    ),
    function(
        "to_binary", names="to_binary decimal_to_binary int_to_binary binary_string convert_to_binary", params="n|num|number|value|k",
        wordings="""
        [return] the binary [representation|form] of $1
        convert $1 to [binary|a binary string]
        [return] $1 in binary
        [return] the binary digits of $1 as a string
        convert [a|an] [number|integer] to binary
        write $1 in base 2
        """,
        held_out="""
        convert a decimal number to [binary|a binary string]
        [return] a string with the number $1 in base two
        """,
        body="""
        if $1 == 0:
            return "0"
        digits = ""
        while $1 > 0:
            digits = str($1 % 2) + digits
            $1 //= 2
        return digits
        """,
        cases=NATURAL, answer=lambda n: f"{n:b}",
    ),
    function(
        "from_binary", names="from_binary binary_to_decimal binary_to_int parse_binary bin_to_dec", params="bits|binary|digits|s|text",
        wordings="""
        convert the binary string $1 to [an integer|a number|decimal]
        [return] the number that the binary string $1 [stands for|represents]
        convert [a binary string|binary] to [an integer|a number|decimal]
        [return] the value of the binary number $1
        parse $1 as a binary number
        """,
        held_out="""
        turn a string of binary digits into a number
        [return] the integer written in base 2 as $1
        """,
        body="""
        result = 0
        for bit in $1:
            result = result * 2 + int(bit)
        return result
        """,
        cases=[("0",), ("1",), ("10",), ("101",), ("1111",), ("100000",), ("0011",)], answer=lambda s: int(s, 2),
    ),
    function(
        "collatz_steps", names="collatz_steps collatz_length count_collatz collatz steps_to_one", params="n|num|number|start|k",
        wordings="""
        [count] steps [that|] the Collatz sequence [takes|needs] from $1 to 1
        [return] the number of Collatz steps from $1 to 1
        [return] the length of the Collatz [sequence|chain] of $1 in steps
        [return] how many Collatz steps it takes to get from $1 to 1
        how many times $1 must be halved or tripled plus one to reach 1
        """,
        held_out="""
        [return] how many steps the Collatz process takes to bring $1 down to 1
        number of steps of the Collatz sequence starting at $1
        """,
        body="""
        steps = 0
        while $1 != 1:
            if $1 % 2 == 0:
                $1 //= 2
            else:
                $1 = 3 * $1 + 1
            steps += 1
        return steps
        """,
        cases=[(1,), (2,), (3,), (6,), (7,), (10,), (27,)], answer={1: 0, 2: 1, 3: 7, 6: 8, 7: 16, 10: 6, 27: 111}.get,
    ),
    function(
        "is_square", names="is_square is_perfect_square perfect_square check_square is_square_number", params="n|num|number|value|k",
        wordings="""
        [check] $1 is a [perfect|] square
        [check] $1 is a square number
        [check] $1 is the square of [an integer|a whole number]
        [check] a number is a perfect square
        [check] the square root of $1 is [an integer|a whole number]
        """,
        held_out="""
        [check] the number is a perfect square
        [check] some integer multiplied by itself gives $1
        """,
        body="""
        i = 0
        while i * i < $1:
            i += 1
        return i * i == $1
        """,
        cases=NATURAL, answer=lambda n: math.isqrt(n) ** 2 == n,
    ),
    function(
        "integer_sqrt", names="integer_sqrt isqrt int_sqrt floor_sqrt whole_square_root", params="n|num|number|value|k",
        wordings="""
        [return] the integer square root of $1
        [return] the square root of $1 rounded down
        [return] the [largest|greatest|biggest] integer whose square is [at most|not larger than] $1
        integer square root of [$1|a number]
        [return] the whole part of the square root of $1
        """,
        held_out="""
        [return] the floor of the square root of $1
        [return] the largest i such that i * i <= $1
        """,
        body="""
        i = 0
        while (i + 1) * (i + 1) <= $1:
            i += 1
        return i
        """,
        cases=NATURAL, answer=math.isqrt,
    ),
    function(
        "is_armstrong", names="is_armstrong is_armstrong_number armstrong check_armstrong is_narcissistic", params="n|num|number|value|k",
        wordings="""
        [check] $1 is an Armstrong number
        [check] $1 is a narcissistic number
        [check] a number is an Armstrong number
        [check] $1 equals the sum of its digits each raised to the number of digits
        [check] the digits of $1, raised to the number of digits, add up to $1
        """,
        held_out="""
        [check] the given number is an Armstrong number
        Armstrong number test for $1
        """,
        body="""
        digits = str($1)
        total = 0
        for digit in digits:
            total += int(digit) ** len(digits)
        return total == $1
        """,
        cases=[(0,), (1,), (9,), (10,), (153,), (154,), (370,), (407,), (1634,), (1635,)], answer=lambda n: n in (0, 1, 9, 153, 370, 407, 1634),
    ),
    function(
        "clamp", names="clamp clip limit_value clamp_value keep_in_range bound", params="x, low, high|value, low, high|n, lower, upper|value, minimum, maximum",
        wordings="""
        limit $1 to the [range|interval] from $2 to $3
        clamp $1 between $2 and $3
        [return] $1 limited to the [range|interval] from $2 to $3
        keep $1 between $2 and $3
        restrict $1 to [values|the range] between $2 and $3
        [return] $2 if $1 is [below it|smaller], $3 if $1 is [above it|larger], else $1
        """,
        held_out="""
        force $1 into the [range|interval] $2 to $3
        clip a value to [lie|be] between two bounds
        """,
        body="""
        if $1 < $2:
            return $2
        if $1 > $3:
            return $3
        return $1
        """,
        cases=[(5, 0, 10), (-5, 0, 10), (15, 0, 10), (0, 0, 10), (10, 0, 10), (3, 3, 3)], answer=lambda x, lo, hi: sorted((x, lo, hi))[1],
    ),
    function(
        "distance", names="distance euclidean_distance point_distance distance_between dist", params="x1, y1, x2, y2|ax, ay, bx, by|a, b, c, d",
        wordings="""
        [return] the distance between the points ($1, $2) and ($3, $4)
        [return] the distance from ($1, $2) to ($3, $4)
        [return] the Euclidean distance between [two points|($1, $2) and ($3, $4)]
        distance between [two|the two] points in the plane
        """,
        held_out="""
        how far ($1, $2) is from ($3, $4)
        [return] the length of the line from point ($1, $2) to point ($3, $4)
        """,
        body="return (($3 - $1) ** 2 + ($4 - $2) ** 2) ** 0.5",
        cases=[(0, 0, 3, 4), (1, 1, 1, 1), (-1, 2, 3, -1), (0, 0, 1, 1)], answer=lambda a, b, c, d: math.dist((a, b), (c, d)),
    ),
    function(
        "bmi", names="bmi body_mass_index compute_bmi calculate_bmi", params="weight, height|kilograms, meters|mass, height|w, h",
        wordings="""
        [return] the body mass index [for|from] $1 and $2
        [return] the BMI [for|from] $1 and $2
        [return] the body mass index of a person
        [return] $1 divided by the square of $2
        """,
        held_out="""
        body mass index from $1 and $2
        [return] the BMI of a person with the given $1 and $2
        """,
        body="return $1 / $2 ** 2", cases=[(80, 2), (70, 1.75), (50.5, 1.6)], answer=lambda w, h: float(Fraction(w) / (Fraction(h) * Fraction(h))),
    ),
    function(
        "divide_safely", names="safe_divide divide_safely safe_division divide_or_none try_divide", params="a, b|x, y|numerator, denominator|p, q",
        wordings="""
        divide $1 by $2, [return|give back] None if $2 is [zero|0]
        [return] $1 / $2, or None [if|when] $2 is [zero|0]
        [return] the quotient of $1 and $2 or None for a division by zero
        divide two numbers, None when dividing by zero
        """,
        held_out="""
        [return] $1 divided by $2, None when $2 is zero
        divide $1 by $2 [without failing on|but not by] zero
        """,
        body="""
        if $2 == 0:
            return None
        return $1 / $2
        """,
        cases=[(6, 3), (1, 0), (0, 5), (7, 2), (-1, 4)], answer=lambda a, b: a / b if b else None,
    ),
    function(
        "apply_discount", names="apply_discount discounted_price price_after_discount with_discount discount", params="price, percent|amount, percent|cost, rate|total, percentage",
        wordings="""
        [return] $1 [after|with] a discount of $2 percent
        [return] the price after taking $2 percent off $1
        reduce $1 by $2 percent
        take $2 percent off $1
        [return] $1 lowered by $2 percent
        """,
        held_out="""
        subtract a discount of $2 percent from $1
        [return] the discounted $1 for a discount of $2 percent
        """,
        body="return $1 - $1 * $2 / 100", cases=[(100, 10), (50, 50), (80, 0), (20, 100), (19.5, 20)],
        answer=lambda p, r: float(Fraction(p) * (1 - Fraction(r) / 100)),
    ),
    function(
        "compound_interest", names="compound_interest compound balance_after grow_savings interest_balance", params="amount, rate, years|principal, rate, years|balance, rate, n",
        wordings="""
        [return] the [value|balance] of $1 after $3 [years|periods] with $2 percent of interest
        [return] how much $1 grows to in $3 [years|periods] at $2 percent
        add $2 percent of interest to $1 for each of $3 years
        compound $1 at $2 percent for $3 years
        """,
        held_out="""
        [return] $1 with compound interest of $2 percent over $3 years
        let $1 grow by $2 percent a year for $3 years
        """,
        body="""
        for _ in range($3):
            $1 += $1 * $2 / 100
        return $1
        """,
        cases=[(100, 10, 2), (1000, 5, 0), (50, 100, 3), (200, 3, 1)], answer=lambda a, r, y: a * (1 + r / 100) ** y,
    ),
    function(
        "seconds_to_time", names="format_seconds seconds_to_time format_time to_clock time_string", params="seconds|total_seconds|n|duration|secs",
        wordings="""
        format $1 [seconds|] as hours:minutes:seconds
        convert $1 to a string like 01:02:03
        [return] $1 as hours, minutes and seconds in the form HH:MM:SS
        format a number of seconds as HH:MM:SS
        turn $1 into a clock string HH:MM:SS
        """,
        held_out="""
        write $1 as HH:MM:SS
        convert seconds to a string with hours, minutes and seconds
        """,
        body="""
        hours = $1 // 3600
        minutes = $1 % 3600 // 60
        return f"{hours:02d}:{minutes:02d}:{$1 % 60:02d}"
        """,
        cases=[(0,), (59,), (60,), (3600,), (3661,), (86399,)],
        answer={0: "00:00:00", 59: "00:00:59", 60: "00:01:00", 3600: "01:00:00", 3661: "01:01:01", 86399: "23:59:59"}.get,
    ),
    function(
        "fizzbuzz_value", names="fizzbuzz_value fizz_buzz_of fizzbuzz_word fizzbuzz_string get_fizzbuzz", params="n|num|number|i|value",
        wordings="""
        return Fizz [if $1 is divisible by|for multiples of] 3, Buzz for 5, FizzBuzz for both, else the number as a string
        [return] the FizzBuzz [word|string|value] [for|of] $1
        [return] "Fizz", "Buzz", "FizzBuzz" or $1 as a string
        [return] what to say for $1 in FizzBuzz
        """,
        held_out="""
        [return] the FizzBuzz answer for the number $1
        say Fizz, Buzz, FizzBuzz or the number itself for $1
        """,
        body="""
        if $1 % 15 == 0:
            return "FizzBuzz"
        if $1 % 3 == 0:
            return "Fizz"
        if $1 % 5 == 0:
            return "Buzz"
        return str($1)
        """,
        cases=[(n,) for n in range(1, 17)], answer=lambda n: "Fizz" * (n % 3 < 1) + "Buzz" * (n % 5 < 1) or f"{n}",
    ),
    function(
        "grade", names="grade letter_grade get_grade score_to_grade grade_for", params="score|points|mark|percent|result",
        wordings="""
        [return] the letter grade for [a|the] $1: A from 90, B from 80, C from 70, else F
        convert $1 to a letter grade (A from 90, B from 80, C from 70, F below)
        [return] A, B, C or F for $1 of at least 90, 80, 70 or less
        [return] the grade A, B, C or F for $1
        """,
        held_out="""
        [return] the letter grade of $1
        turn $1 into one of the grades A, B, C and F
        """,
        body="""
        if $1 >= 90:
            return "A"
        if $1 >= 80:
            return "B"
        if $1 >= 70:
            return "C"
        return "F"
        """,
        cases=[(100,), (90,), (89,), (80,), (79,), (70,), (69,), (0,)], answer=lambda s: "F" if s < 70 else "CBAA"[(s - 70) // 10],
    ),
    function(
        "multiplication_row", names="multiplication_row times_table_row multiples get_multiples first_multiples", params="n, count|number, count|x, times|k, amount",
        wordings="""
        [return] the first $2 multiples of $1
        [return] a list [of|with] the first $2 multiples of $1
        [make] [a|the] list of the multiples of $1, $2 [of them|in all]
        list $2 multiples of $1, starting with $1 itself
        """,
        held_out="""
        [return] $1 times 1, 2, ... up to $2 in a list
        the first $2 numbers in the times table of $1
        """,
        body="return [$1 * i for i in range(1, $2 + 1)]", cases=[(3, 4), (1, 5), (7, 0), (2, 1), (10, 3)],
        answer=lambda n, c: list(range(n, n * c + 1, n)),
    ),
    function(
        "is_power_of_two", names="is_power_of_two power_of_two check_power_of_two is_pow2", params="n|num|number|value|k",
        wordings="""
        [check] $1 is a power of [two|2]
        [check] a number is a power of [two|2]
        [check] $1 [can be written as|equals] 2 ** k
        [check] halving $1 again and again [ends at|gives] 1
        [check] the number $1 is a power of [two|2]
        """,
        held_out="""
        [check] the given number is a power of 2
        [check] $1 is 1, 2, 4, 8, 16 and so on
        """,
        body="""
        if $1 < 1:
            return False
        while $1 % 2 == 0:
            $1 //= 2
        return $1 == 1
        """,
        cases=[*NATURAL, (8,), (64,), (1024,), (96,)], answer=lambda n: f"{n:b}".count("1") == 1,
    ),
]  # fmt: skip
