"""Functions of strings."""

# ruff: noqa: E501

import re
import string
from collections import Counter

from ..family import function

TEXTS = [
    ("",),
    ("a",),
    ("hello",),
    ("Hello World",),
    ("the quick brown fox",),
    ("level",),
    ("AbcABC",),
    ("x1y22z",),
    ("  spaced  out ",),
]
WORDS = [("",), ("a",), ("hello",), ("level",), ("noon",), ("Python",), ("abca",), ("banana",)]
SENTENCES = [("one",), ("two words",), ("the quick brown fox",), ("a bb ccc dd",), ("Hello there big World",)]
S = "text|s|string|word|line"
T = "text|s|sentence|line|string"

FAMILIES = [
    function(
        "reverse_string", names="reverse_string reverse_text string_reverse reversed_string flip_string backwards", params=S,
        wordings="""
        [return] [$1|the string $1|the text $1] [reversed|backwards|in reverse]
        reverse [$1|a string|the string $1]
        [return] the reverse of [$1|the string $1]
        [return] $1 with its [characters] in reverse order
        [return] the [characters] of $1 from last to first
        [return] a reversed copy of [the string|the text|] $1
        """,
        held_out="""
        turn [$1|the string $1] around
        [return] $1 read from right to left
        """,
        body="return $1[::-1]", cases=TEXTS, answer=lambda s: "".join(reversed(s)),
    ),
    function(
        "is_palindrome", names="is_palindrome palindrome check_palindrome is_palindromic test_palindrome palindrome_check", params=S,
        wordings="""
        [check] $1 is a palindrome
        [check] [the string|the word|] $1 reads the same [backwards|forwards and backwards|in both directions]
        [check] a [string|word] is a palindrome
        [check] $1 is equal to its reverse
        return True [if|when] $1 is a palindrome, else False
        is $1 a palindrome?
        """,
        held_out="""
        [check] the given [string|word] is a palindrome
        [check] $1 stays the same when it is reversed
        """,
        body="return $1 == $1[::-1]", cases=WORDS, answer=lambda s: all(s[i] == s[-1 - i] for i in range(len(s))),
    ),
    function(
        "count_vowels", names="count_vowels vowel_count number_of_vowels num_vowels vowels_in", params=S,
        wordings="""
        [count] vowels in $1
        count the vowels [in|of] [$1|a string|the string $1]
        [return] how many vowels [$1 contains|there are in $1|$1 has]
        [return] how many [letters|characters] of $1 are vowels
        count [how many|the] vowels there are in the [string|text] $1
        """,
        held_out="""
        [count] vowels of a [string|text]
        count the letters a, e, i, o and u in $1
        """,
        body="""
        count = 0
        for char in $1:
            if char.lower() in "aeiou":
                count += 1
        return count
        """,
        cases=[*TEXTS, ("AEIOU",), ("rhythm",)], answer=lambda s: len(re.findall("[aeiouAEIOU]", s)),
    ),
    function(
        "remove_vowels", names="remove_vowels without_vowels strip_vowels drop_vowels delete_vowels", params=S,
        wordings="""
        [return] $1 without [its|] vowels
        [remove] [all|the|all the] vowels from [$1|a string|the string $1]
        [return] $1 with [all|the|all the] vowels [removed|left out]
        [return] the [characters] of $1 that are not vowels
        """,
        held_out="""
        [return] the [string|text] without any vowels
        leave only what is not a vowel in $1
        """,
        body="""
        result = ""
        for char in $1:
            if char.lower() not in "aeiou":
                result += char
        return result
        """,
        cases=TEXTS, answer=lambda s: re.sub("[aeiouAEIOU]", "", s),
    ),
    function(
        "count_words", names="count_words word_count number_of_words num_words how_many_words", params=T,
        wordings="""
        [count] words in $1
        count the words [in|of] [$1|a string|a sentence|the text $1]
        [return] how many words [$1 contains|there are in $1|$1 has]
        [return] the number of words [$1 consists of|separated by spaces in $1]
        """,
        held_out="""
        [count] words of a [text|sentence]
        how many words does $1 have?
        """,
        body="return len($1.split())", cases=TEXTS, answer=lambda s: len(re.findall(r"\S+", s)),
    ),
    function(
        "longest_word", names="longest_word find_longest_word get_longest_word longest_in_sentence biggest_word", params="text|s|sentence|line|phrase",
        wordings="""
        [return] the longest word [in|of] $1
        [return] the longest word [in|of] a [sentence|text|string]
        [return] the word with the most [letters|characters] in $1
        longest word of [$1|the sentence $1]
        """,
        held_out="""
        [return] the longest of the words in $1
        which word of $1 has the most letters?
        """,
        body="""
        longest = ""
        for word in $1.split():
            if len(word) > len(longest):
                longest = word
        return longest
        """,
        cases=SENTENCES, answer=lambda s: max(s.split(), key=len),
    ),
    function(
        "reverse_words", names="reverse_words reverse_word_order words_reversed flip_words reverse_sentence", params=T,
        wordings="""
        [return] $1 with [its|the] words in reverse order
        reverse the order of the words in [$1|a sentence|the string $1]
        [return] the words of $1 in reverse order
        [return] the words of $1 from last to first, joined by spaces
        """,
        held_out="""
        reverse a sentence word by word
        [return] $1 with the last word first and the first word last
        """,
        body='return " ".join($1.split()[::-1])', cases=SENTENCES, answer=lambda s: " ".join(reversed(s.split(" "))),
    ),
    function(
        "capitalize_words", names="capitalize_words title_case capitalize_each_word to_title upper_first_letters", params=T,
        wordings="""
        capitalize [each|every] word [of|in] [$1|a sentence|the string $1]
        [return] $1 with [each|every] word capitalized
        [return] $1 with the first letter of [each|every] word in upper case
        make the first letter of [each|every] word in $1 [upper case|a capital]
        """,
        held_out="""
        start every word of $1 with a capital letter
        [return] the sentence with all words capitalized
        """,
        body='return " ".join(word.capitalize() for word in $1.split())', cases=SENTENCES,
        answer=lambda s: string.capwords(s),
    ),
    function(
        "is_anagram", names="is_anagram are_anagrams anagram check_anagram anagrams", params="a, b|s, t|first, second|word1, word2",
        wordings="""
        [check] $1 and $2 are anagrams
        [check] $1 is an anagram of $2
        [check] two [strings|words] are anagrams [of each other|]
        [check] $1 and $2 [have|consist of|contain] the same letters
        [check] the letters of $1 can be rearranged to [give|spell] $2
        """,
        held_out="""
        [check] one [string|word] is an anagram of the other
        are $1 and $2 anagrams?
        """,
        body="return sorted($1) == sorted($2)",
        cases=[("listen", "silent"), ("abc", "abd"), ("", ""), ("aab", "abb"), ("a", "aa"), ("night", "thing")], answer=lambda a, b: Counter(a) == Counter(b),
    ),
    function(
        "count_char", names="count_char count_character char_count count_letter occurrences_of", params="text, char|s, c|word, letter|string, character",
        wordings="""
        [count] times $2 [occurs|appears] in $1
        count the occurrences of [the character|] $2 in $1
        [return] how [often|many times] $2 [occurs|appears|is found] in $1
        [return] the number of [occurrences|appearances] of $2 in $1
        count how often the [character|letter] $2 is in $1
        """,
        held_out="""
        how many times does $1 contain $2?
        count the [characters] of $1 that are equal to $2
        """,
        body="""
        count = 0
        for current in $1:
            if current == $2:
                count += 1
        return count
        """,
        cases=[("banana", "a"), ("banana", "x"), ("", "a"), ("hello", "l"), ("aaa", "a")], answer=lambda s, c: s.count(c),
    ),
    function(
        "char_frequencies", names="char_frequencies letter_counts character_counts char_counts letter_frequency count_characters", params=S,
        wordings="""
        [return] a [dict] with the [count|number of occurrences] of [each|every] [character|letter] in $1
        [return] how often [each|every] [character|letter] occurs in $1
        count [each|every] [character|letter] of $1 in a [dict]
        [make] a [dict] from [each|every] [character|letter] of $1 to its [count|number of occurrences]
        """,
        held_out="""
        [return] the frequency of every [character|letter] in $1
        map the [characters] of $1 to how many times they appear
        """,
        body="""
        counts = {}
        for char in $1:
            counts[char] = counts.get(char, 0) + 1
        return counts
        """,
        cases=TEXTS, answer=lambda s: {c: s.count(c) for c in s},
    ),
    function(
        "word_frequencies", names="word_frequencies word_counts count_each_word frequency_of_words words_to_counts", params=T,
        wordings="""
        [return] a [dict] with the [count|number of occurrences] of [each|every] word in $1
        [return] how often [each|every] word occurs in $1
        count [each|every] word of $1 in a [dict]
        [make] a [dict] from [each|every] word of $1 to its [count|number of occurrences]
        """,
        held_out="""
        [return] the frequency of every word in $1
        map the words of $1 to how many times they appear
        """,
        body="""
        counts = {}
        for word in $1.split():
            counts[word] = counts.get(word, 0) + 1
        return counts
        """,
        cases=[*SENTENCES, ("a b a",), ("",)], answer=lambda s: dict(Counter(s.split())),
    ),
    function(
        "remove_spaces", names="remove_spaces strip_spaces without_spaces delete_spaces drop_spaces", params=T,
        wordings="""
        [remove] [all|the|all the] spaces from [$1|a string|the string $1]
        [return] $1 without [any|] spaces
        [return] $1 with [all|the|all the] spaces [removed|left out]
        [return] the [characters] of $1 that are not spaces
        """,
        held_out="""
        [return] the [string|text] with no spaces in it
        close the gaps in $1 by removing each space
        """,
        body='return $1.replace(" ", "")', cases=TEXTS, answer=lambda s: "".join(c for c in s if c != " "),
    ),
    function(
        "remove_duplicates_string", names="unique_characters remove_duplicate_characters unique_letters remove_repeated_letters dedupe_string", params=S,
        wordings="""
        [return] $1 without repeated [characters]
        [remove] [duplicate|repeated] [characters] from $1
        [return] [the string|] $1 with only the first of [each|every] [character|letter] kept
        [return] the different [characters] of $1 in order as a string
        """,
        held_out="""
        keep each [character|letter] of $1 only once
        [return] the [string|text] with no [character|letter] occurring twice
        """,
        body="""
        result = ""
        for char in $1:
            if char not in result:
                result += char
        return result
        """,
        cases=TEXTS + WORDS, answer=lambda s: "".join(dict.fromkeys(s)),
    ),
    function(
        "first_unique_char", names="first_unique_char first_unique first_non_repeating first_single_char find_unique_char", params=S,
        wordings="""
        [return] the first [character|letter] of $1 that [occurs|appears] only once, or None
        [return] the first [character|letter] [in|of] $1 that is not repeated, or None
        [return] the first non-repeating [character|letter] [in|of] $1, or None
        find the first unique [character|letter] of $1, None if there is none
        """,
        held_out="""
        [return] the first [character|letter] that is found exactly once in $1, else None
        which [character|letter] of $1 is the first without a repeat?
        """,
        body="""
        for char in $1:
            if $1.count(char) == 1:
                return char
        return None
        """,
        cases=[*WORDS, ("aabb",), ("aabbc",)], answer=lambda s: next((c for c, k in Counter(s).items() if k == 1), None),
    ),
    function(
        "swap_case", names="swap_case swapcase invert_case flip_case toggle_case", params=S,
        wordings="""
        swap [upper|lower] and [lower|upper] case in [$1|a string|the string $1]
        [return] $1 with upper and lower case swapped
        turn upper case [letters|] of $1 into lower case and [the other way round|vice versa]
        [return] $1 with the case of [each|every] letter [inverted|changed]
        """,
        held_out="""
        make the small letters of $1 capital and the capital ones small
        [return] the [string|text] with the case of all letters switched
        """,
        body="""
        result = ""
        for char in $1:
            if char.isupper():
                result += char.lower()
            else:
                result += char.upper()
        return result
        """,
        cases=TEXTS, answer=lambda s: s.swapcase(),
    ),
    function(
        "count_upper", names="count_upper count_uppercase count_capitals uppercase_count number_of_capitals", params=S,
        wordings="""
        [count] upper case letters in $1
        [count] capital letters in $1
        count the [capitals|uppercase letters] [in|of] [$1|a string|the string $1]
        [return] how many letters of $1 are [upper case|capitals|uppercase]
        """,
        held_out="""
        how many capital letters does $1 have?
        [count] [characters] in $1 that are upper case
        """,
        body="""
        count = 0
        for char in $1:
            if char.isupper():
                count += 1
        return count
        """,
        cases=TEXTS, answer=lambda s: len(re.findall("[A-Z]", s)),
    ),
    function(
        "caesar", names="caesar caesar_cipher caesar_encrypt shift_letters encrypt_caesar", params="text, shift|message, key|s, k|plain, offset",
        wordings="""
        encrypt [the lower case text|] $1 with a Caesar cipher [by|of] $2 [letters|]
        shift [each|every] lower case letter of $1 by $2 places [in the alphabet|]
        [return] $1 with its lower case letters shifted by $2
        [return] the Caesar cipher of $1 for the shift $2
        """,
        held_out="""
        move every lower case letter of $1 $2 places further in the alphabet
        apply a Caesar cipher to $1 with the shift $2
        """,
        body="""
        result = ""
        for char in $1:
            if "a" <= char <= "z":
                result += chr((ord(char) - ord("a") + $2) % 26 + ord("a"))
            else:
                result += char
        return result
        """,
        cases=[("abc", 1), ("xyz", 3), ("hello world", 13), ("", 5), ("abc", 0)],
        answer=lambda s, k: s.translate(str.maketrans(string.ascii_lowercase, string.ascii_lowercase[k:] + string.ascii_lowercase[:k])),
    ),
    function(
        "run_length", names="run_length_encode compress_string run_length rle encode_runs", params=S,
        wordings="""
        compress $1 by run length: aaab becomes a3b1
        [return] the run-length encoding of $1, [like|such as] a3b1 for aaab
        encode $1 as [characters] followed by their run lengths
        run-length encode [$1|a string|the string $1]
        """,
        held_out="""
        write each run of equal [characters] in $1 as the character and its length
        [return] $1 run-length encoded, so that aab gives a2b1
        """,
        body="""
        result = ""
        i = 0
        while i < len($1):
            j = i
            while j < len($1) and $1[j] == $1[i]:
                j += 1
            result += $1[i] + str(j - i)
            i = j
        return result
        """,
        cases=[("",), ("a",), ("aaab",), ("abc",), ("aabbaa",), ("zzzz",)],
        answer=lambda s: re.sub(r"(.)\1*", lambda m: f"{m[1]}{len(m[0])}", s),
    ),
    function(
        "repeat_string", names="repeat_string repeat_text string_times multiply_string repeat", params="text, n|s, times|word, count|string, k",
        wordings="""
        [return] $1 repeated $2 times
        repeat [the string|] $1 $2 times
        [return] $2 copies of $1 [joined|in one string]
        [return] a string that consists of $1 $2 times
        """,
        held_out="""
        write $1 $2 times in a row
        [make] a string from $2 repetitions of $1
        """,
        body="return $1 * $2", cases=[("ab", 3), ("x", 0), ("", 5), ("hey", 1)], answer=lambda s, n: "".join(s for _ in range(n)),
    ),
    function(
        "is_pangram", names="is_pangram pangram check_pangram uses_every_letter contains_alphabet", params=T,
        wordings="""
        [check] $1 is a pangram
        [check] $1 [contains|uses|has] [every|each] letter of the alphabet
        [check] a sentence is a pangram
        [check] all letters from a to z [occur|appear] in $1
        """,
        held_out="""
        [check] no letter of the alphabet is missing in $1
        is the sentence $1 a pangram?
        """,
        body="""
        for letter in "abcdefghijklmnopqrstuvwxyz":
            if letter not in $1.lower():
                return False
        return True
        """,
        cases=[("",), ("hello",), ("The quick brown fox jumps over the lazy dog",), ("abcdefghijklmnopqrstuvwxyz",), ("abcdefghijklmnopqrstuvwxy",)],
        answer=lambda s: set(string.ascii_lowercase) <= set(s.lower()),
    ),
    function(
        "starts_with", names="starts_with has_prefix begins_with check_prefix is_prefix", params="text, prefix|s, start|string, beginning|word, head",
        wordings="""
        [check] $1 starts with $2
        [check] $1 begins with $2
        [check] $2 is a prefix of $1
        [check] a string starts with [a given prefix|another]
        """,
        held_out="""
        [check] the first [characters] of $1 are $2
        does $1 start with $2?
        """,
        body="return $1[:len($2)] == $2", cases=[("hello", "he"), ("hello", "lo"), ("", ""), ("a", "ab"), ("abc", "")], answer=lambda s, p: s.startswith(p),
    ),
    function(
        "truncate", names="truncate shorten truncate_text cut_text limit_length", params="text, n|s, limit|text, length|string, width",
        wordings="""
        cut $1 after $2 [characters] and add ... if it was longer
        [return] at most $2 [characters] of $1, with ... added if it was cut
        shorten $1 to $2 [characters], [with|followed by] ... [if needed|where it is longer]
        truncate $1 to $2 [characters] and append ... if it is longer
        """,
        held_out="""
        [return] $1 cut to $2 [characters] with dots at the end if it is too long
        limit $1 to $2 [characters], marking a cut with ...
        """,
        body="""
        if len($1) <= $2:
            return $1
        return $1[:$2] + "..."
        """,
        cases=[("hello world", 5), ("hi", 5), ("", 3), ("abc", 3), ("abcd", 3)], answer=lambda s, n: s if s[n:] == "" else f"{s[:n]}...",
    ),
    function(
        "snake_to_camel", names="snake_to_camel to_camel_case camel_case camelize underscore_to_camel", params="name|s|text|identifier|word",
        wordings="""
        convert [$1 from|] snake_case to camelCase
        [return] the snake_case name $1 in camelCase
        turn [a snake_case name|the snake_case name $1] into camelCase
        [return] $1 without underscores and with a capital after each
        """,
        held_out="""
        rewrite a name with underscores in camelCase
        [return] the camelCase form of the snake_case $1
        """,
        body="""
        first, *rest = $1.split("_")
        return first + "".join(part.capitalize() for part in rest)
        """,
        cases=[("hello",), ("hello_world",), ("a_b_c",), ("snake_case_name",)], answer=lambda s: re.sub("_(.)", lambda m: m[1].upper(), s),
    ),
    function(
        "camel_to_snake", names="camel_to_snake to_snake_case snake_case underscore decamelize", params="name|s|text|identifier|word",
        wordings="""
        convert [$1 from|] camelCase to snake_case
        [return] the camelCase name $1 in snake_case
        turn [a camelCase name|the camelCase name $1] into snake_case
        [return] $1 in lower case with an underscore before each capital
        """,
        held_out="""
        rewrite a camelCase name with underscores
        [return] the snake_case form of the camelCase $1
        """,
        body="""
        result = ""
        for char in $1:
            if char.isupper():
                result += "_" + char.lower()
            else:
                result += char
        return result
        """,
        cases=[("hello",), ("helloWorld",), ("aBC",), ("camelCaseName",)], answer=lambda s: re.sub("[A-Z]", lambda m: "_" + m[0].lower(), s),
    ),
    function(
        "is_balanced", names="is_balanced balanced_parentheses check_parentheses balanced_brackets valid_parentheses", params="text|s|expression|string|code",
        wordings="""
        [check] the [parentheses|round brackets] in $1 are balanced
        [check] $1 has balanced parentheses
        [check] [every|each] opening parenthesis in $1 [is closed|has a closing one]
        [check] parentheses [open and close|match] correctly in $1
        """,
        held_out="""
        [check] every ( in $1 has a matching )
        are the parentheses of $1 balanced?
        """,
        body="""
        depth = 0
        for char in $1:
            if char == "(":
                depth += 1
            elif char == ")":
                depth -= 1
                if depth < 0:
                    return False
        return depth == 0
        """,
        cases=[("",), ("()",), ("(()())",), (")(",), ("(",), ("(a + b) * (c - d)",), ("())",)],
        answer={"": True, "()": True, "(()())": True, ")(": False, "(": False, "(a + b) * (c - d)": True, "())": False}.get,
    ),
    function(
        "extract_digits", names="extract_digits digits_only get_digits only_digits keep_digits", params=S,
        wordings="""
        [return] [only|] the digits of $1 as a string
        [return] a string with [only|all|] the digits in $1
        extract the digits from [$1|a string|the string $1]
        [remove] everything but the digits from $1
        """,
        held_out="""
        keep nothing but the digits of $1
        [return] all [characters] of $1 that are digits, joined
        """,
        body="""
        result = ""
        for char in $1:
            if char.isdigit():
                result += char
        return result
        """,
        cases=[*TEXTS, ("a1b2c3",), ("2024-01-31",)], answer=lambda s: re.sub("[^0-9]", "", s),
    ),
    function(
        "count_substring", names="count_substring substring_count count_overlapping count_pattern find_all_count", params="text, part|s, sub|string, pattern|text, piece",
        wordings="""
        [count] times $2 occurs in $1, [overlaps included|also overlapping]
        count the overlapping occurrences of $2 in $1
        [return] at how many positions of $1 [the substring|] $2 starts
        [return] how often $2 is found in $1, counting overlaps
        """,
        held_out="""
        [return] the number of overlapping occurrences of the substring $2 in $1
        count the places where $1 contains $2
        """,
        body="""
        count = 0
        for i in range(len($1) - len($2) + 1):
            if $1[i:i + len($2)] == $2:
                count += 1
        return count
        """,
        cases=[("aaaa", "aa"), ("hello", "l"), ("abcabc", "abc"), ("abc", "d"), ("", "a")], answer=lambda s, p: len(re.findall(f"(?={p})", s)),
    ),
    function(
        "hamming", names="hamming_distance hamming count_differences string_difference differing_positions", params="a, b|s, t|first, second|left, right",
        wordings="""
        [return] the Hamming distance between $1 and $2
        [count] positions [where|at which] $1 and $2 differ
        [return] in how many positions $1 and $2 differ
        count the [characters|positions] in which two strings of equal length differ
        """,
        held_out="""
        [return] the Hamming distance of two strings
        count how often $1 and $2 have different [characters] at the same place
        """,
        body="""
        count = 0
        for x, y in zip($1, $2):
            if x != y:
                count += 1
        return count
        """,
        cases=[("abc", "abc"), ("abc", "abd"), ("", ""), ("karolin", "kathrin"), ("aaaa", "bbbb")], answer=lambda a, b: sum(a[i] != b[i] for i in range(len(a))),
    ),
    function(
        "acronym", names="acronym make_acronym initials get_initials abbreviate", params="phrase|text|s|sentence|name",
        wordings="""
        [return] the acronym of $1
        [return] the first letters of the words in $1 in upper case
        [make] an acronym from [the words of|] $1
        [return] the initials of $1 in upper case
        """,
        held_out="""
        abbreviate $1 to its initials
        join the capitalized first letters of the words of $1
        """,
        body="""
        result = ""
        for word in $1.split():
            result += word[0].upper()
        return result
        """,
        cases=[*SENTENCES, ("",)], answer=lambda s: re.sub(r"(\S)\S*\s*", r"\1", s).upper(),
    ),
    function(
        "greet", names="greet say_hello make_greeting hello greeting", params="name|person|user|who|friend",
        wordings="""
        [return] a greeting for $1
        [return] "Hello, " followed by $1 and an exclamation mark
        [make] a greeting [for|from] the name $1
        greet $1 by name
        """,
        held_out="""
        say hello to $1
        [return] a string that greets $1
        """,
        body='return f"Hello, {$1}!"', cases=[("Ann",), ("World",), ("",)], answer=lambda n: "Hello, " + n + "!",
    ),
    function(
        "common_prefix", names="common_prefix shared_prefix longest_common_prefix prefix_of_both same_beginning", params="a, b|s, t|first, second|left, right",
        wordings="""
        [return] the [longest|] common prefix of $1 and $2
        [return] the longest string with which both $1 and $2 start
        [return] the common beginning of $1 and $2
        longest common prefix of [two strings|$1 and $2]
        """,
        held_out="""
        [return] the part at the start that $1 and $2 share
        how far two strings agree from the start, as a string
        """,
        body="""
        result = ""
        for x, y in zip($1, $2):
            if x != y:
                break
            result += x
        return result
        """,
        cases=[("flower", "flow"), ("abc", "abd"), ("", "a"), ("same", "same"), ("x", "y")],
        answer=lambda a, b: next(a[:k] for k in range(min(len(a), len(b)), -1, -1) if a[:k] == b[:k]),
    ),
]  # fmt: skip
