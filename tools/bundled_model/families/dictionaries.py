"""Functions of dictionaries."""

# ruff: noqa: E501
from collections import Counter

from ..family import function

DICTS = [({},), ({"a": 1},), ({"a": 3, "b": 1, "c": 2},), ({"x": -1, "y": 5},), ({"p": 2, "q": 9, "r": 4},)]
FILLED = DICTS[1:]
D = "d|mapping|table|data|scores|prices"

FAMILIES = [
    function(
        "invert_dict", names="invert_dict invert_dictionary swap_keys_values reverse_dict flip_dict inverted", params="d|mapping|table|data|source",
        wordings="""
        swap the keys and values of [$1|a dictionary|the dictionary $1]
        [return] a [dict] with keys and values of $1 [swapped|exchanged]
        invert [$1|a dictionary|the dictionary $1]
        [return] a [dict] from the values of $1 to its keys
        """,
        held_out="""
        [return] $1 with the values as keys and the keys as values
        make every value of $1 point to its key
        """,
        body="""
        result = {}
        for key, value in $1.items():
            result[value] = key
        return result
        """,
        cases=DICTS, answer=lambda d: dict(zip(d.values(), d.keys(), strict=True)),
    ),
    function(
        "merge_dicts", names="merge_dicts merge_dictionaries combine_dicts join_dicts dict_union", params="a, b|first, second|left, right|d1, d2",
        wordings="""
        merge [the dictionaries|two dictionaries|] $1 and $2
        [return] a [dict] with the [entries|items|pairs] of $1 and $2
        combine $1 and $2 [into one dictionary|], [with $2 winning|values of $2 win]
        merge two [dictionaries|dicts] into a new one
        """,
        held_out="""
        put everything from $1 and $2 into one dictionary
        [return] the union of the dictionaries $1 and $2
        """,
        body="""
        result = dict($1)
        for key, value in $2.items():
            result[key] = value
        return result
        """,
        cases=[({}, {}), ({"a": 1}, {"b": 2}), ({"a": 1}, {"a": 2}), ({"x": 1, "y": 2}, {"y": 3, "z": 4})], answer=lambda a, b: a | b,
    ),
    function(
        "sum_values", names="sum_dict_values total_of_values sum_of_values dict_sum values_total", params=D,
        wordings="""
        [return] the sum of [all|the] values [in|of] [$1|the dictionary $1|a dictionary]
        add up [all|the] values of [$1|the dictionary $1|a dictionary]
        [return] the total of the values in $1
        sum the values of [$1|a dictionary]
        """,
        held_out="""
        [return] what all values in the dictionary $1 add up to
        total up the values stored in $1
        """,
        body="""
        total = 0
        for value in $1.values():
            total += value
        return total
        """,
        cases=DICTS, answer=lambda d: sum(d[k] for k in d),
    ),
    function(
        "key_of_max", names="key_of_max key_with_max best_key max_key top_key key_of_largest", params=D,
        wordings="""
        [return] the key [with|of] the [largest] value in $1
        [return] the key of $1 whose value is [largest|biggest|highest]
        [return] the key that has the [largest] value in [$1|a dictionary]
        key of the maximum in [$1|the dictionary $1]
        """,
        held_out="""
        [return] which key of $1 has the maximum as its value
        find the key under which the [largest] value of $1 is stored
        """,
        body="""
        best = None
        for key in $1:
            if best is None or $1[key] > $1[best]:
                best = key
        return best
        """,
        cases=FILLED, answer=lambda d: max(d, key=d.get),
    ),
    function(
        "key_of_min", names="key_of_min key_with_min worst_key min_key cheapest key_of_smallest", params=D,
        wordings="""
        [return] the key [with|of] the [smallest] value in $1
        [return] the key of $1 whose value is [smallest|lowest]
        [return] the key that has the [smallest] value in [$1|a dictionary]
        key of the minimum in [$1|the dictionary $1]
        """,
        held_out="""
        [return] which key of $1 has the minimum as its value
        find the key under which the [smallest] value of $1 is stored
        """,
        body="""
        best = None
        for key in $1:
            if best is None or $1[key] < $1[best]:
                best = key
        return best
        """,
        cases=FILLED, answer=lambda d: min(d, key=d.get),
    ),
    function(
        "keys_with_value", names="keys_with_value find_keys keys_for_value get_keys_by_value lookup_keys", params="d, value|mapping, target|table, x|data, wanted",
        wordings="""
        [return] [a list of|] the keys of $1 [with|that have] the value $2
        [return] [all|the] keys in $1 whose value is $2
        find [all|the] keys of $1 that map to $2
        list the keys under which $1 [stores|holds] $2
        """,
        held_out="""
        [return] every key for which $1 holds $2
        look up by value: the keys of $1 that belong to $2
        """,
        body="""
        result = []
        for key in $1:
            if $1[key] == $2:
                result.append(key)
        return result
        """,
        cases=[({}, 1), ({"a": 1, "b": 2, "c": 1}, 1), ({"a": 1}, 2), ({"x": 5, "y": 5}, 5)], answer=lambda d, v: [k for k, w in d.items() if w == v],
    ),
    function(
        "count_values", names="count_values frequencies frequency_table count_items tally frequency", params="items|values|numbers|data|xs",
        wordings="""
        [return] a [dict] with the [count|number of occurrences] of [each|every] [element] in [the list|] $1
        count how often [each|every] [element] [occurs|appears] in the list $1
        [make] a [dict] from [each|every] [element] of the list $1 to its [count|number of occurrences]
        tally the [elements] of [the list|] $1
        """,
        held_out="""
        [return] the frequency of every [element] in the list $1
        map the [elements] of the list $1 to how many times they occur
        """,
        body="""
        counts = {}
        for element in $1:
            counts[element] = counts.get(element, 0) + 1
        return counts
        """,
        cases=[([],), ([1, 2, 1],), ([3],), ([5, 5, 5, 4],)], answer=lambda xs: dict(Counter(xs)),
    ),
    function(
        "group_by_length", names="group_by_length words_by_length group_words_by_length by_length length_groups", params="words|strings|names|texts|items",
        wordings="""
        group the [words|strings] in $1 by [their|] length
        [return] a [dict] from lengths to the [words|strings] of $1 with that length
        [make] a [dict] of the [words|strings] in $1, keyed by length
        sort the [words|strings] of $1 into lists by their length
        """,
        held_out="""
        collect [words|strings] of $1 that are equally long under their length
        [return] for each length the list of [words|strings] in $1 that have it
        """,
        body="""
        groups = {}
        for element in $1:
            groups.setdefault(len(element), []).append(element)
        return groups
        """,
        cases=[([],), (["a", "bb", "c"],), (["one", "two", "three"],)], answer=lambda ws: {n: [w for w in ws if len(w) == n] for n in map(len, ws)},
    ),
    function(
        "group_by_first_letter", names="group_by_first_letter by_first_letter group_by_initial index_by_letter words_by_letter", params="words|strings|names|texts|items",
        wordings="""
        group the [words|strings] in $1 by [their|] first letter
        [return] a [dict] from first letters to the [words|strings] of $1 that start with them
        [make] a [dict] of the [words|strings] in $1, keyed by first letter
        sort the [words|strings] of $1 into lists by their first letter
        """,
        held_out="""
        collect [words|strings] of $1 with the same beginning letter under that letter
        [return] for each initial the list of [words|strings] in $1 that start with it
        """,
        body="""
        groups = {}
        for element in $1:
            groups.setdefault(element[0], []).append(element)
        return groups
        """,
        cases=[([],), (["apple", "bee", "ant"],), (["x", "y", "xx"],)], answer=lambda ws: {c: [w for w in ws if w[0] == c] for c in (w[0] for w in ws)},
    ),
    function(
        "lists_to_dict", names="lists_to_dict make_dict dict_from_lists zip_to_dict build_dict", params="keys, values|names, numbers|a, b|labels, data",
        wordings="""
        [make] a [dict] from the keys $1 and the values $2
        [make] a [dict] with the [elements] of $1 as keys and those of $2 as values
        combine [the lists|] $1 and $2 into a [dict]
        map [every|each] [element] of $1 to the one of $2 at the same [index|position]
        """,
        held_out="""
        turn two lists, $1 and $2, into a dictionary
        [return] a [dict] in which $1 are the keys and $2 the values
        """,
        body="""
        result = {}
        for i in range(len($1)):
            result[$1[i]] = $2[i]
        return result
        """,
        cases=[([], []), (["a", "b"], [1, 2]), (["x"], [9]), (["p", "q", "r"], [3, 2, 1])], answer=lambda k, v: dict(zip(k, v, strict=True)),
    ),
    function(
        "filter_dict", names="filter_dict filter_by_value keep_large_values values_above dict_above", params="d, limit|mapping, threshold|scores, minimum|prices, bound",
        wordings="""
        [return] the [entries|items|pairs] of $1 whose value is [greater|larger] than $2
        keep only the [entries|items|pairs] of $1 with a value above $2
        [return] a [dict] of what is [above|larger than] $2 in $1
        [remove] [entries|items] with values of at most $2 from $1
        """,
        held_out="""
        filter the dictionary $1 to values over $2
        [return] the part of $1 where the value exceeds $2
        """,
        body="""
        result = {}
        for key, value in $1.items():
            if value > $2:
                result[key] = value
        return result
        """,
        cases=[({}, 1), ({"a": 1, "b": 2, "c": 3}, 1), ({"a": 1}, 1), ({"x": -5, "y": 5}, -10)], answer=lambda d, t: {k: d[k] for k in d if not d[k] <= t},
    ),
    function(
        "sort_by_value", names="sort_by_value sort_dict_by_value sorted_items ranking items_by_value", params=D,
        wordings="""
        [return] the [pairs|items] of $1 sorted by value
        sort the [dictionary|dict] $1 by [its|] values
        [return] [a list of|] [key and value|(key, value)] pairs of $1 in order of [the|] values
        [return] the [pairs|items] of $1 from the smallest to the largest value
        """,
        held_out="""
        order the pairs in $1 by their value
        [return] a list of the items in $1, lowest value first
        """,
        body="return sorted($1.items(), key=lambda pair: pair[1])", cases=DICTS,
        answer=lambda d: [(k, v) for v in sorted(d.values()) for k in d if d[k] == v],
    ),
    function(
        "increment_count", names="increment increment_count add_one_to count_up_key bump", params="counts, key|d, k|table, name|scores, player",
        wordings="""
        add [one|1] to the count of $2 in $1
        increase the [value|count] of $2 in $1 by [one|1] and return $1
        increment $1[$2], starting from [zero|0] [if it is missing|for a new key]
        count $2 once more in $1
        """,
        held_out="""
        raise the number stored in $1 under $2 by one
        make the counter of $2 in $1 one larger
        """,
        body="""
        $1[$2] = $1.get($2, 0) + 1
        return $1
        """,
        cases=[({}, "a"), ({"a": 1}, "a"), ({"a": 1}, "b"), ({"x": 5, "y": 0}, "y")], answer=lambda d, k: {**d, k: d[k] + 1 if k in d else 1},
    ),
    function(
        "get_or_default", names="get_or_default lookup get_value safe_get value_or_default", params="d, key, default|mapping, name, other|table, k, fallback",
        wordings="""
        [return] the value of $2 in $1, or $3 if it is [missing|not there]
        look up $2 in $1 and return $3 if it is [missing|not there]
        [return] $1[$2] if [there is one|the key exists], else $3
        get the value for $2 from $1 with $3 as the default
        """,
        held_out="""
        [return] what $1 holds under $2, $3 where it holds nothing
        read $2 from the dictionary $1, falling back to $3
        """,
        body="""
        if $2 in $1:
            return $1[$2]
        return $3
        """,
        cases=[({}, "a", 0), ({"a": 1}, "a", 0), ({"a": 1}, "b", 7), ({"a": None}, "a", 3)], answer=lambda d, k, o: d.get(k, o),
    ),
    function(
        "dict_average", names="average_value mean_of_values average_score average_of_dict mean_value", params=D,
        wordings="""
        [return] the [average|mean] of [all|the] values [in|of] [$1|the dictionary $1|a dictionary]
        [return] the [average|mean] value of [the dictionary|] $1
        average the values of [$1|a dictionary]
        [return] the sum of the values of $1 divided by their number
        """,
        held_out="""
        [return] what the values in the dictionary $1 are on average
        arithmetic mean of the values stored in $1
        """,
        body="return sum($1.values()) / len($1)", cases=FILLED, answer=lambda d: sum(d[k] for k in d) / sum(1 for _ in d),
    ),
]  # fmt: skip
