"""Functions of lists."""

# ruff: noqa: E501
import statistics
from itertools import accumulate, chain

from ..family import function

LISTS = [([1, 2, 3],), ([],), ([5],), ([3, -1, 4, -1, 5],), ([0, 0, 7],), ([9, 8, 8, 2, 9, 1],), ([-4, -2, -9],)]
FILLED = [case for case in LISTS if case[0]]
L = "numbers|values|nums|items|data|xs"
AND_ITEM = "items, item|values, value|numbers, n|xs, x|data, target"
TWO = "a, b|xs, ys|first, second|left, right"
PAIRS = [([1, 2, 3], [2, 3, 4]), ([], [1]), ([1], []), ([5, 5, 6], [6, 5]), ([1, 2], [3, 4]), ([3, 1, 2], [2, 1, 3])]
ITEMS = [([1, 2, 3], 2), ([], 1), ([5, 5, 6, 5], 5), ([0, 1], 7), ([4], 4), ([9, 8, 7, 8], 8)]
MATRIX = "matrix|m|rows|table|grid"

FAMILIES = [
    function(
        "sum_list", names="sum_list list_sum total sum_of_list add_all sum_values", params=L,
        wordings="""
        [return] the sum of [all|the] [elements] [in|of] $1
        [return] the sum of [$1|the list $1|a list of numbers]
        add up [all|the] [elements] of [$1|a list]
        [return] the total of [all|the] [elements] in $1
        sum [all|the] [elements] of $1
        """,
        held_out="""
        [return] the sum of a list
        add all [elements] of $1 together
        """,
        body="""
        result = 0
        for element in $1:
            result += element
        return result
        """,
        cases=LISTS, answer=sum,
    ),
    function(
        "product_list", names="product product_list multiply_all list_product product_of_list multiply_list", params=L,
        wordings="""
        [return] the product of [all|the] [elements] [in|of] $1
        [return] the product of [$1|the list $1|a list of numbers]
        multiply [all|the] [elements] of [$1|a list]
        multiply [all|the] [elements] in $1 with each other
        """,
        held_out="""
        [return] the product of a list
        multiply together everything in $1
        """,
        body="""
        result = 1
        for element in $1:
            result *= element
        return result
        """,
        cases=LISTS, answer=lambda xs: list(accumulate([1, *xs], lambda a, b: a * b))[-1],
    ),
    function(
        "mean", names="mean average compute_average get_mean average_of_list arithmetic_mean", params=L,
        wordings="""
        [return] the [average|mean] of [$1|the list $1|a list of numbers]
        [return] the [average|mean|arithmetic mean] of [all|the] [elements] [in|of] $1
        [return] the sum of $1 divided by [its length|their number]
        average of [the numbers in|] $1
        """,
        held_out="""
        [return] the arithmetic mean of a list
        [return] the average value in $1
        """,
        body="return sum($1) / len($1)", cases=FILLED, answer=lambda xs: float(statistics.mean(xs)),
    ),
    function(
        "median", names="median find_median get_median compute_median middle_value", params=L,
        wordings="""
        [return] the median of [$1|the list $1|a list of numbers]
        [return] the median of [all|the] [elements] [in|of] $1
        [return] the middle value of $1 [when sorted|after sorting]
        median of [the numbers in|] $1
        """,
        held_out="""
        [return] the median value in $1
        sort $1 and return what is in the middle
        """,
        body="""
        ordered = sorted($1)
        middle = len(ordered) // 2
        if len(ordered) % 2 == 1:
            return ordered[middle]
        return (ordered[middle - 1] + ordered[middle]) / 2
        """,
        cases=[*FILLED, ([1, 2],), ([4, 1, 3, 2],)], answer=statistics.median,
    ),
    function(
        "mode", names="mode most_common most_frequent find_mode get_mode", params=L,
        wordings="""
        [return] the most [common|frequent] [element] [in|of] $1
        [return] the [element] that [occurs|appears] most often in $1
        [return] the mode of [$1|the list $1|a list]
        [return] the [element] with the most occurrences in $1
        """,
        held_out="""
        [return] which [element] of $1 is the most common
        [return] the value that $1 contains the most times
        """,
        body="""
        best = $1[0]
        for element in $1:
            if $1.count(element) > $1.count(best):
                best = element
        return best
        """,
        cases=[([1, 2, 2],), ([5],), ([3, 1, 3, 1, 3],), ([7, 7, 8],), ([4, 5, 5, 5, 4],)], answer=statistics.mode,
    ),
    function(
        "find_max", names="find_max maximum list_max largest get_max find_largest max_value", params=L,
        wordings="""
        [return] the [largest] [element] [in|of] $1
        [return] the [largest] [element|number] [in|of] a list
        [return] the maximum of [$1|the list $1|a list]
        maximum of [the values in|] $1
        """,
        held_out="""
        [return] the [element] of $1 that is larger than all others
        which [element] of $1 is the [largest|biggest]?
        """,
        body="""
        result = $1[0]
        for element in $1:
            if element > result:
                result = element
        return result
        """,
        cases=FILLED, answer=max,
    ),
    function(
        "find_min", names="find_min minimum list_min smallest get_min find_smallest min_value", params=L,
        wordings="""
        [return] the [smallest] [element] [in|of] $1
        [return] the [smallest] [element|number] [in|of] a list
        [return] the minimum of [$1|the list $1|a list]
        minimum of [the values in|] $1
        """,
        held_out="""
        [return] the [element] of $1 that is smaller than all others
        which [element] of $1 is the [smallest|least]?
        """,
        body="""
        result = $1[0]
        for element in $1:
            if element < result:
                result = element
        return result
        """,
        cases=FILLED, answer=min,
    ),
    function(
        "index_of_max", names="index_of_max argmax max_index position_of_max find_max_index", params=L,
        wordings="""
        [return] the [index|position] of the [largest] [element] [in|of] $1
        [return] the [index|position] of the maximum of [$1|a list]
        [return] where the [largest] [element] of $1 is
        [return] the index at which $1 is [largest|biggest]
        """,
        held_out="""
        [return] at which index $1 has its maximum
        find out where in $1 the [largest] [element] stands
        """,
        body="""
        best = 0
        for i in range(len($1)):
            if $1[i] > $1[best]:
                best = i
        return best
        """,
        cases=FILLED, answer=lambda xs: xs.index(max(xs)),
    ),
    function(
        "second_largest", names="second_largest second_biggest second_max find_second_largest runner_up", params=L,
        wordings="""
        [return] the second [largest|biggest|highest] [element] [in|of] $1
        [return] the second [largest|biggest] different [element|number] [in|of] a list
        [return] the [largest] [element] of $1 [below|other than] the maximum
        second [largest|biggest] of [the values in|] $1
        """,
        held_out="""
        [return] the [element] of $1 that comes right after the maximum in size
        [return] the runner-up to the maximum of $1
        """,
        body="""
        ordered = sorted(set($1))
        return ordered[-2]
        """,
        cases=[([1, 2, 3],), ([5, 5, 4],), ([3, -1, 4, -1, 5],), ([0, 0, 7],), ([10, 9],)], answer=lambda xs: max(x for x in xs if x < max(xs)),
    ),
    function(
        "reverse_list", names="reverse_list list_reverse reversed_list backwards_list flip_list", params=L,
        wordings="""
        [return] [the list|] $1 [reversed|backwards|in reverse]
        reverse [$1|a list|the list $1]
        [return] the [elements] of $1 in reverse order
        [return] a reversed copy of [$1|the list $1|a list]
        [make] a list with the [elements] of $1 from last to first
        """,
        held_out="""
        turn the order of the [elements] in $1 around
        [return] a new list with the [elements] of $1 in the opposite order
        """,
        body="""
        result = []
        for element in $1:
            result.insert(0, element)
        return result
        """,
        cases=LISTS, answer=lambda xs: xs[::-1],
    ),
    function(
        "remove_duplicates", names="remove_duplicates unique unique_elements deduplicate distinct unique_list dedupe", params=L,
        wordings="""
        [return] $1 without duplicates
        [remove] [all|the|] duplicates from [$1|a list|the list $1]
        [return] the [unique|different|distinct] [elements] of $1 in [their|the original] order
        [return] [a list of|] the [elements] of $1 without repetitions
        keep only the first of equal [elements] in $1
        """,
        held_out="""
        [return] each [element] of $1 once, in order
        [make] a list in which no [element] of $1 is repeated
        """,
        body="""
        result = []
        for element in $1:
            if element not in result:
                result.append(element)
        return result
        """,
        cases=LISTS, answer=lambda xs: list(dict.fromkeys(xs)),
    ),
    function(
        "has_duplicates", names="has_duplicates contains_duplicates any_duplicates check_duplicates has_repeats", params=L,
        wordings="""
        [check] $1 [has|contains] duplicates
        [check] any [element] occurs [twice|more than once] in $1
        [check] there are [duplicates|repeated elements|equal elements] in $1
        [check] [some|an] [element] of $1 is repeated
        """,
        held_out="""
        [check] the [elements] of $1 are not all different
        does $1 contain any [element] twice?
        """,
        body="""
        seen = set()
        for element in $1:
            if element in seen:
                return True
            seen.add(element)
        return False
        """,
        cases=LISTS, answer=lambda xs: any(xs.count(x) > 1 for x in xs),
    ),
    function(
        "find_duplicates", names="find_duplicates get_duplicates duplicates list_duplicates repeated_elements", params=L,
        wordings="""
        [return] the [elements] that [occur|appear] more than once in $1
        [return] a list of the duplicates in $1
        [return] [all|the] [elements] of $1 that are repeated
        list the [elements] which $1 contains [more than once|at least twice]
        """,
        held_out="""
        [return] every [element] that is found at least twice in $1
        collect the duplicates of $1
        """,
        body="""
        result = []
        for element in $1:
            if $1.count(element) > 1 and element not in result:
                result.append(element)
        return result
        """,
        cases=LISTS, answer=lambda xs: [x for x in dict.fromkeys(xs) if len([y for y in xs if y == x]) > 1],
    ),
    function(
        "count_item", names="count_item count_occurrences count_in_list occurrences how_often count_value", params=AND_ITEM,
        wordings="""
        [count] times $2 occurs in [the list|] $1
        count the occurrences of $2 in [the list|] $1
        [return] how [often|many times] $2 [occurs|appears|is found] in the list $1
        count the [elements] of $1 that [are equal to|equal] $2
        """,
        held_out="""
        how many times is $2 in the list $1?
        [return] how many [elements] of $1 are $2
        """,
        body="""
        count = 0
        for element in $1:
            if element == $2:
                count += 1
        return count
        """,
        cases=ITEMS, answer=lambda xs, x: xs.count(x),
    ),
    function(
        "contains", names="contains has_item is_in_list list_contains includes has_element", params=AND_ITEM,
        wordings="""
        [check] $1 contains $2
        [check] $2 is in [the list|] $1
        [check] the list $1 has [the element|] $2
        [check] $2 is [one of|among] the [elements] of $1
        """,
        held_out="""
        [check] $2 can be found in $1
        does the list $1 include $2?
        """,
        body="""
        for element in $1:
            if element == $2:
                return True
        return False
        """,
        cases=ITEMS, answer=lambda xs, x: xs.count(x) > 0,
    ),
    function(
        "linear_search", names="linear_search find_index index_of search find_position position_of", params=AND_ITEM,
        wordings="""
        [return] the [index|position] of $2 in $1, or -1 [if it is not there|if it is missing|if there is none]
        [return] the first [index|position] of $2 in $1, or -1
        search $1 for $2 and return its [index|position], -1 if [it is not found|it is not there]
        find where $2 is in $1, -1 if it is nowhere
        linear search for $2 in $1
        """,
        held_out="""
        look for $2 in $1 and return the index where it is, else -1
        [return] where in the list $1 the value $2 first appears, -1 if it does not
        """,
        body="""
        for i in range(len($1)):
            if $1[i] == $2:
                return i
        return -1
        """,
        cases=ITEMS, answer=lambda xs, x: xs.index(x) if x in xs else -1,
    ),
    function(
        "binary_search", names="binary_search bisect_search search_sorted find_in_sorted binary_find", params="items, target|numbers, target|values, x|data, key|xs, x",
        wordings="""
        [return] the [index|position] of $2 in the [sorted|ordered] list $1, or -1
        binary search for $2 in [the sorted list|] $1
        search [the|] sorted [list|] $1 for $2 [by halving|with binary search], -1 if it is not there
        find $2 in [the sorted list|] $1 with binary search and return its index or -1
        """,
        held_out="""
        use binary search to find the index of $2 in $1, else return -1
        look up $2 in the sorted list $1 by bisection, -1 where it is missing
        """,
        body="""
        low = 0
        high = len($1) - 1
        while low <= high:
            middle = (low + high) // 2
            if $1[middle] == $2:
                return middle
            if $1[middle] < $2:
                low = middle + 1
            else:
                high = middle - 1
        return -1
        """,
        cases=[([1, 3, 5, 7], 5), ([1, 3, 5, 7], 1), ([1, 3, 5, 7], 7), ([1, 3, 5, 7], 4), ([], 1), ([2], 2), (list(range(0, 100, 3)), 63)],
        answer=lambda xs, x: xs.index(x) if x in xs else -1,
    ),
    function(
        "bubble_sort", names="bubble_sort sort_bubble bubblesort sort_list sort_numbers", params=L,
        wordings="""
        sort [$1|a list|the list $1] with bubble sort
        [return] $1 sorted with bubble sort
        sort $1 by swapping neighbours [until it is in order|]
        sort [$1|a list|the list $1] in [ascending|increasing] order
        bubble sort [of|for] [a list|$1]
        """,
        held_out="""
        use bubble sort to put $1 in order
        sort the [elements] of $1 by repeated swaps
        """,
        body="""
        for i in range(len($1)):
            for j in range(len($1) - 1 - i):
                if $1[j] > $1[j + 1]:
                    $1[j], $1[j + 1] = $1[j + 1], $1[j]
        return $1
        """,
        cases=LISTS, answer=sorted,
    ),
    function(
        "insertion_sort", names="insertion_sort sort_by_insertion insertionsort insert_sort", params=L,
        wordings="""
        sort [$1|a list|the list $1] with insertion sort
        [return] $1 sorted with insertion sort
        sort $1 by inserting each [element] [at|in] its place
        insertion sort [of|for] [a list|$1]
        """,
        held_out="""
        use insertion sort to put $1 in order
        sort the [elements] of $1 by insertion
        """,
        body="""
        for i in range(1, len($1)):
            current = $1[i]
            j = i - 1
            while j >= 0 and $1[j] > current:
                $1[j + 1] = $1[j]
                j -= 1
            $1[j + 1] = current
        return $1
        """,
        cases=LISTS, answer=sorted,
    ),
    function(
        "selection_sort", names="selection_sort sort_by_selection selectionsort select_sort", params=L,
        wordings="""
        sort [$1|a list|the list $1] with selection sort
        [return] $1 sorted with selection sort
        sort $1 by selecting the smallest [element] again and again
        selection sort [of|for] [a list|$1]
        """,
        held_out="""
        use selection sort to put $1 in order
        sort the [elements] of $1 by selection of the minimum
        """,
        body="""
        for i in range(len($1)):
            smallest = i
            for j in range(i + 1, len($1)):
                if $1[j] < $1[smallest]:
                    smallest = j
            $1[i], $1[smallest] = $1[smallest], $1[i]
        return $1
        """,
        cases=LISTS, answer=sorted,
    ),
    function(
        "is_sorted", names="is_sorted check_sorted sorted_check is_ascending in_order", params=L,
        wordings="""
        [check] $1 is sorted [in ascending order|]
        [check] the [elements] of $1 are in [ascending|increasing] order
        [check] [a list|the list $1] is sorted
        [check] no [element] of $1 is smaller than the one before [it|]
        """,
        held_out="""
        [check] $1 is already in ascending order
        are the [elements] of $1 sorted?
        """,
        body="""
        for i in range(len($1) - 1):
            if $1[i] > $1[i + 1]:
                return False
        return True
        """,
        cases=[*LISTS, ([1, 1, 2],)], answer=lambda xs: sorted(xs) == xs,
    ),
    function(
        "filter_even", names="filter_even get_evens even_numbers_in keep_even only_even select_even", params=L,
        wordings="""
        [return] the even numbers [in|of|from] $1
        [return] [a list of|] [all|the] even [elements] of $1
        keep only the even [numbers|elements] of $1
        [remove] [all|the] odd numbers from $1
        [return] the [elements] of $1 that are even
        """,
        held_out="""
        pick the even numbers out of $1
        filter $1 so that only even [numbers|elements] remain
        """,
        body="return [number for number in $1 if number % 2 == 0]",
        cases=LISTS, answer=lambda xs: list(filter(lambda v: not v & 1, xs)),
    ),
    function(
        "filter_odd", names="filter_odd get_odds odd_numbers_in keep_odd only_odd select_odd", params=L,
        wordings="""
        [return] the odd numbers [in|of|from] $1
        [return] [a list of|] [all|the] odd [elements] of $1
        keep only the odd [numbers|elements] of $1
        [remove] [all|the] even numbers from $1
        [return] the [elements] of $1 that are odd
        """,
        held_out="""
        pick the odd numbers out of $1
        filter $1 so that only odd [numbers|elements] remain
        """,
        body="return [number for number in $1 if number % 2 == 1]", cases=LISTS, answer=lambda xs: list(filter(lambda v: v & 1, xs)),
    ),
    function(
        "filter_positive", names="filter_positive get_positive keep_positive only_positive positive_numbers select_positive", params=L,
        wordings="""
        [return] the positive numbers [in|of|from] $1
        [return] [a list of|] [all|the] positive [elements] of $1
        keep only the positive [numbers|elements] of $1
        [return] the [elements] of $1 that are [greater|larger] than [zero|0]
        [remove] [all|the] numbers that are not positive from $1
        """,
        held_out="""
        pick the positive numbers out of $1
        filter $1 so that only positive [numbers|elements] remain
        """,
        body="return [number for number in $1 if number > 0]", cases=LISTS, answer=lambda xs: list(filter(lambda v: abs(v) == v != 0, xs)),
    ),
    function(
        "count_positive", names="count_positive number_of_positives positive_count count_positives how_many_positive", params=L,
        wordings="""
        [count] positive [numbers|elements] in $1
        count [how many|the] [elements] of $1 [that|] are positive
        [return] how many [elements] of $1 are [greater|larger] than [zero|0]
        count the positive [numbers|elements] of a list
        """,
        held_out="""
        how many positive numbers are there in $1?
        [return] how many of the [elements] in $1 lie above zero
        """,
        body="""
        count = 0
        for number in $1:
            if number > 0:
                count += 1
        return count
        """,
        cases=LISTS, answer=lambda xs: len([v for v in xs if not v <= 0]),
    ),
    function(
        "square_all", names="square_all square_list squares squared square_each square_numbers", params=L,
        wordings="""
        [return] the squares of [all|the] [elements] [in|of] $1
        [return] [a list of|] the squares of $1
        square [every|each] [element] of $1
        [return] a list with [every|each] [element] of $1 squared
        """,
        held_out="""
        replace every number in $1 by its square
        [return] the [elements] of $1, each multiplied by itself
        """,
        body="return [number ** 2 for number in $1]", cases=LISTS, answer=lambda xs: [v * v for v in xs],
    ),
    function(
        "double_all", names="double_all double_list doubled double_each double_values double_numbers", params=L,
        wordings="""
        [return] the doubles of [all|the] [elements] [in|of] $1
        [return] a list with [every|each] [element] of $1 doubled
        double [every|each] [element] of $1
        multiply [every|each] [element] of $1 by [two|2]
        """,
        held_out="""
        replace every number in $1 by its double
        [return] two times each [element] of $1
        """,
        body="return [number * 2 for number in $1]", cases=LISTS, answer=lambda xs: [v + v for v in xs],
    ),
    function(
        "flatten", names="flatten flatten_list flatten_once join_lists concatenate_all merge_nested", params="lists|nested|rows|groups|parts",
        wordings="""
        flatten [$1|a list of lists|the list of lists $1]
        [return] one list with [all|the] [elements] of the lists in $1
        [return] the [elements] of [all|the] lists in $1 in one list
        join [all|the] lists in $1 [into one|]
        concatenate the lists in $1
        """,
        held_out="""
        turn the list of lists $1 into one flat list
        [return] a flat list of everything in the inner lists of $1
        """,
        body="""
        result = []
        for inner in $1:
            for element in inner:
                result.append(element)
        return result
        """,
        cases=[([],), ([[1], [2, 3]],), ([[], [4], []],), ([[1, 2], [3, 4], [5]],)], answer=lambda xs: list(chain(*xs)),
    ),
    function(
        "chunk", names="chunk chunks split_into_chunks batch make_chunks chunk_list", params="items, size|values, n|data, length|xs, k",
        wordings="""
        split $1 into [chunks|pieces|parts|lists] of length $2
        [return] $1 cut into [chunks|pieces|lists] of $2 [elements] [each|]
        [return] consecutive [chunks|pieces|parts] of $1 with $2 [elements] each
        divide [the list|] $1 into [chunks|groups] of size $2
        """,
        held_out="""
        break $1 up into lists with $2 [elements] each
        group the [elements] of $1 by $2
        """,
        body="""
        result = []
        for i in range(0, len($1), $2):
            result.append($1[i:i + $2])
        return result
        """,
        cases=[([1, 2, 3, 4, 5], 2), ([], 3), ([1, 2, 3], 3), ([1, 2], 5), ([1, 2, 3, 4], 1)],
        answer=lambda xs, k: [[x for i, x in enumerate(xs) if i // k == g] for g in range((len(xs) + k - 1) // k)],
    ),
    function(
        "rotate_left", names="rotate_left rotate_list rotate shift_left rotated", params="items, k|values, n|xs, steps|data, count",
        wordings="""
        rotate $1 to the left by $2 [places|positions|]
        [return] $1 rotated left by $2 [places|positions|]
        move the first $2 [elements] of $1 to the end
        [return] $1 with its first $2 [elements] moved to the end
        """,
        held_out="""
        turn $1 left by $2 places
        [return] $1 with the first $2 [elements] put behind the others
        """,
        body="return $1[$2:] + $1[:$2]", cases=[([1, 2, 3, 4], 1), ([1, 2, 3, 4], 2), ([1], 0), ([], 0), ([1, 2, 3], 3)],
        answer=lambda xs, k: [xs[(i + k) % len(xs)] for i in range(len(xs))],
    ),
    function(
        "intersection", names="intersection common_elements common_items in_both shared_elements list_intersection", params=TWO,
        wordings="""
        [return] the [elements] that [are in both|occur in both] $1 and $2
        [return] the common [elements] of $1 and $2
        [return] the intersection of [$1 and $2|the lists $1 and $2|two lists]
        [return] the [elements] of $1 that are also in $2
        """,
        held_out="""
        [return] what $1 and $2 have in common
        list every [element] that $1 shares with $2
        """,
        body="""
        result = []
        for element in $1:
            if element in $2 and element not in result:
                result.append(element)
        return result
        """,
        cases=PAIRS, answer=lambda a, b: [x for x in dict.fromkeys(a) if b.count(x)],
    ),
    function(
        "union", names="union merge_unique list_union combine_unique all_elements", params=TWO,
        wordings="""
        [return] the union of [$1 and $2|the lists $1 and $2|two lists]
        [return] the [elements] that are in $1 or $2 without duplicates
        [return] [all|the] [different|unique|distinct] [elements] of $1 and $2
        combine $1 and $2 without duplicates
        """,
        held_out="""
        merge two lists and keep each [element] once
        [return] everything that is in at least one of $1 and $2, once
        """,
        body="""
        result = []
        for element in $1 + $2:
            if element not in result:
                result.append(element)
        return result
        """,
        cases=PAIRS, answer=lambda a, b: list(dict.fromkeys(chain(a, b))),
    ),
    function(
        "difference", names="difference list_difference elements_not_in only_in_first subtract_lists", params=TWO,
        wordings="""
        [return] the [elements] of $1 that are not in $2
        [return] the difference of [the lists|] $1 and $2
        [return] $1 without the [elements] of $2
        [remove] [all|the] [elements] of $2 from $1
        """,
        held_out="""
        [return] what is in $1 but not in $2
        keep those [elements] of $1 that $2 does not contain
        """,
        body="""
        result = []
        for element in $1:
            if element not in $2:
                result.append(element)
        return result
        """,
        cases=PAIRS, answer=lambda a, b: list(filter(lambda v: b.count(v) == 0, a)),
    ),
    function(
        "merge_sorted", names="merge_sorted merge_sorted_lists merge_lists merge_ordered sorted_merge", params="a, b|xs, ys|first, second|left, right",
        wordings="""
        merge [the sorted lists|two sorted lists] $1 and $2 into one sorted list
        [return] the sorted list of [all|the] [elements] of the sorted lists $1 and $2
        merge two [sorted|ordered] lists
        combine the [sorted|ordered] lists $1 and $2 [in order|so that the result is sorted]
        """,
        held_out="""
        [return] one sorted list made of the sorted $1 and $2
        interleave two sorted lists so that the order is kept
        """,
        body="""
        result = []
        i = 0
        j = 0
        while i < len($1) and j < len($2):
            if $1[i] <= $2[j]:
                result.append($1[i])
                i += 1
            else:
                result.append($2[j])
                j += 1
        return result + $1[i:] + $2[j:]
        """,
        cases=[([1, 3], [2, 4]), ([], [1]), ([1, 2], []), ([1, 1], [1]), ([5, 6], [1, 2, 9])], answer=lambda a, b: sorted([*a, *b]),
    ),
    function(
        "zip_lists", names="zip_lists pair_up make_pairs pair_lists combine_pairs", params=TWO,
        wordings="""
        [return] [a list of|] pairs of the [elements] of $1 and $2
        pair the [elements] of $1 with those of $2
        [return] a list of tuples with one [element] of $1 and one of $2
        zip [the lists|] $1 and $2 [into a list of tuples|]
        """,
        held_out="""
        put the [elements] of $1 and $2 side by side as tuples
        match every [element] of $1 with the one of $2 at the same place
        """,
        body="""
        result = []
        for i in range(min(len($1), len($2))):
            result.append(($1[i], $2[i]))
        return result
        """,
        cases=PAIRS, answer=lambda a, b: list(zip(a, b, strict=False)),
    ),
    function(
        "cumulative_sum", names="cumulative_sum running_total running_sum prefix_sums cumsum partial_sums", params=L,
        wordings="""
        [return] the cumulative sums of [$1|a list]
        [return] the running totals of [$1|a list]
        [return] [a list of|] the sums of the first 1, 2, 3, ... [elements] of $1
        [return] the [prefix|partial] sums of $1
        """,
        held_out="""
        [return] for every position of $1 the sum of all [elements] up to it
        running sum over the list $1
        """,
        body="""
        result = []
        total = 0
        for number in $1:
            total += number
            result.append(total)
        return result
        """,
        cases=LISTS, answer=lambda xs: list(accumulate(xs)),
    ),
    function(
        "dot_product", names="dot_product dot scalar_product inner_product vector_dot", params="a, b|u, v|xs, ys|left, right",
        wordings="""
        [return] the dot product of [$1 and $2|the vectors $1 and $2|two vectors]
        [return] the scalar product of [$1 and $2|two vectors]
        [return] the sum of the products of the [elements] of $1 and $2
        multiply $1 and $2 [element by element|elementwise] and add up the products
        """,
        held_out="""
        [return] the inner product of two lists of numbers
        add up $1[i] * $2[i] for all i
        """,
        body="""
        total = 0
        for i in range(len($1)):
            total += $1[i] * $2[i]
        return total
        """,
        cases=[([1, 2, 3], [4, 5, 6]), ([], []), ([2], [-3]), ([1, 0], [0, 1])], answer=lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)),
    ),
    function(
        "add_lists", names="add_lists add_vectors elementwise_sum vector_add sum_lists", params="a, b|u, v|xs, ys|left, right",
        wordings="""
        add $1 and $2 [element by element|elementwise]
        [return] the [element by element|elementwise] sum of $1 and $2
        [return] a list with the sums of the [elements] of $1 and $2 at the same [index|position]
        add the [vectors|vectors $1 and $2|two vectors]
        """,
        held_out="""
        [return] the list of $1[i] + $2[i] for all i
        sum two vectors of equal length
        """,
        body="""
        result = []
        for i in range(len($1)):
            result.append($1[i] + $2[i])
        return result
        """,
        cases=[([1, 2, 3], [4, 5, 6]), ([], []), ([2], [-3]), ([1, 0], [0, 1])], answer=lambda a, b: [x + y for x, y in zip(a, b, strict=True)],
    ),
    function(
        "transpose", names="transpose transpose_matrix matrix_transpose transposed swap_rows_and_columns", params=MATRIX,
        wordings="""
        [return] the transpose of [$1|the matrix $1|a matrix]
        transpose [$1|the matrix $1|a matrix]
        swap the rows and columns of [$1|a matrix]
        [return] $1 with rows and columns [swapped|exchanged]
        """,
        held_out="""
        turn the rows of $1 into columns
        [return] the transposed matrix of $1
        """,
        body="""
        result = []
        for j in range(len($1[0])):
            result.append([row[j] for row in $1])
        return result
        """,
        cases=[([[1, 2], [3, 4]],), ([[1, 2, 3]],), ([[1], [2]],), ([[7]],)], answer=lambda m: [list(c) for c in zip(*m, strict=True)],
    ),
    function(
        "identity_matrix", names="identity_matrix make_identity identity eye unit_matrix", params="n|size|dim|order|k",
        wordings="""
        [make] the identity matrix of size $1
        [return] the $1 by $1 identity matrix
        [make] a matrix of size $1 with ones on the diagonal and zeros elsewhere
        [make] an identity matrix with $1 rows
        """,
        held_out="""
        [return] a square matrix with $1 rows, 1 on the diagonal and 0 elsewhere
        identity matrix with $1 rows and columns
        """,
        body="""
        result = []
        for i in range($1):
            row = [0] * $1
            row[i] = 1
            result.append(row)
        return result
        """,
        cases=[(0,), (1,), (2,), (3,), (5,)], answer=lambda n: [[int(i == j) for j in range(n)] for i in range(n)],
    ),
    function(
        "sum_matrix", names="sum_matrix matrix_sum sum_of_matrix add_matrix_elements total_of_matrix", params=MATRIX,
        wordings="""
        [return] the sum of [all|the] [elements|numbers] [in|of] [the matrix|] $1
        [return] the sum of [all|the] [elements|numbers] of a matrix
        add up [all|the] [elements|numbers] in the rows of $1
        [return] the total of the matrix $1
        """,
        held_out="""
        sum every [element|number] of every row of $1
        [return] what all numbers of the matrix $1 add up to
        """,
        body="""
        total = 0
        for row in $1:
            for element in row:
                total += element
        return total
        """,
        cases=[([[1, 2], [3, 4]],), ([],), ([[5]],), ([[1, -1], [2, -2], [3, 3]],)], answer=lambda m: sum(chain(*m)),
    ),
    function(
        "matrix_multiply", names="matrix_multiply multiply_matrices matmul matrix_product mat_mul", params="a, b|left, right|m1, m2|x, y",
        wordings="""
        multiply [the matrices|two matrices] $1 and $2
        [return] the [matrix product|product] of the matrices $1 and $2
        [return] the product of two matrices
        multiply the matrix $1 by [the matrix|] $2
        matrix product of $1 and $2
        """,
        held_out="""
        [return] the matrix $1 times the matrix $2
        multiply two matrices given as lists of rows
        """,
        body="""
        result = []
        for row in $1:
            line = []
            for j in range(len($2[0])):
                total = 0
                for k in range(len($2)):
                    total += row[k] * $2[k][j]
                line.append(total)
            result.append(line)
        return result
        """,
        cases=[([[1, 2], [3, 4]], [[5, 6], [7, 8]]), ([[2]], [[3]]), ([[1, 2, 3]], [[1], [2], [3]]), ([[1], [2]], [[3, 4]])],
        answer=lambda a, b: [[sum(x * y for x, y in zip(r, c, strict=True)) for c in zip(*b, strict=True)] for r in a],
    ),
    function(
        "longest_string", names="longest_string get_longest longest_of find_longest longest_name", params="words|strings|names|texts|items",
        wordings="""
        [return] the longest string [in|of] $1
        [return] the longest [string|word] [in|of] a list
        [return] the string in $1 with the most [characters]
        longest of the strings in $1
        """,
        held_out="""
        [return] the [string|word] of the list $1 that is the longest
        which string in $1 has the most characters?
        """,
        body="""
        longest = $1[0]
        for current in $1:
            if len(current) > len(longest):
                longest = current
        return longest
        """,
        cases=[(["a", "bb", "c"],), (["x"],), (["cat", "horse", "mouse"],), (["", "z"],)], answer=lambda ws: max(ws, key=len),
    ),
    function(
        "string_lengths", names="string_lengths lengths get_lengths word_lengths lengths_of", params="words|strings|names|texts|items",
        wordings="""
        [return] [a list of|] the lengths of the strings in $1
        [return] the length of [every|each] string in $1
        [return] how long [every|each] [string|word] of $1 is
        lengths of [all|the] [strings|words] in $1
        """,
        held_out="""
        [return] a list that tells how long the strings of $1 are
        measure the length of every word in $1
        """,
        body="return [len(element) for element in $1]", cases=[([],), (["a", "bb", ""],), (["hello"],)], answer=lambda ws: list(map(len, ws)),
    ),
    function(
        "filter_long", names="filter_long_words long_words words_longer_than filter_by_length keep_long", params="words, n|strings, limit|names, length|items, size",
        wordings="""
        [return] the [words|strings] [in|of] $1 that are longer than $2
        [return] [all|the] strings of $1 with more than $2 [characters]
        keep only the [words|strings] of $1 longer than $2
        [remove] [words|strings] of at most $2 [characters] from $1
        """,
        held_out="""
        filter out of $1 what is longer than $2 [characters]
        [return] those [words|strings] in $1 whose length exceeds $2
        """,
        body="return [element for element in $1 if len(element) > $2]",
        cases=[(["a", "bb", "ccc"], 1), ([], 2), (["hello", "hi"], 5), (["abc", "abcd"], 3)], answer=lambda ws, n: list(filter(lambda w: w[n:], ws)),
    ),
    function(
        "join_with", names="join_strings join_with_commas comma_separated join_words to_comma_list", params="words|strings|names|texts|items",
        wordings="""
        join the strings in $1 with commas
        [return] the [words|strings] of $1 separated by commas
        [return] one string with the [words|strings] of $1 and a comma between them
        join $1 with a comma between the [words|strings]
        """,
        held_out="""
        glue the strings of $1 together with commas
        [return] a comma-separated string of all [words|strings] in $1
        """,
        body='return ",".join($1)', cases=[(["a", "b"],), ([],), (["x"],), (["one", "two", "three"],)],
        answer=lambda ws: "".join(w + ("," if i < len(ws) - 1 else "") for i, w in enumerate(ws)),
    ),
    function(
        "two_sum", names="two_sum find_pair pair_with_sum find_two_sum indices_of_sum", params="numbers, target|nums, target|values, total|xs, goal",
        wordings="""
        [return] the indices of two numbers in $1 that add up to $2, or None
        [return] the indices of [a pair|two elements] of $1 [whose sum is|with the sum] $2, or None
        find two numbers in $1 [whose sum is|that sum to] $2 and return their indices
        two sum: indices of two [elements] of $1 that sum to $2
        """,
        held_out="""
        [return] where in $1 two numbers stand that give $2 when added, or None
        solve the two-sum problem for $1 and $2
        """,
        body="""
        for i in range(len($1)):
            for j in range(i + 1, len($1)):
                if $1[i] + $1[j] == $2:
                    return i, j
        return None
        """,
        cases=[([2, 7, 11, 15], 9), ([3, 2, 4], 6), ([3, 3], 6), ([1, 2], 7), ([], 0)],
        answer=lambda xs, t: next(((i, j) for i in range(len(xs)) for j in range(i + 1, len(xs)) if xs[j] == t - xs[i]), None),
    ),
    function(
        "split_even_odd", names="split_even_odd separate_even_odd even_and_odd partition_parity divide_even_odd", params=L,
        wordings="""
        split $1 into a list of even and a list of odd numbers
        [return] the even numbers and the odd numbers of $1 as two lists
        separate the even from the odd numbers [in|of] $1
        [return] two lists: the even and the odd [elements] of $1
        """,
        held_out="""
        divide $1 into its even and its odd numbers
        sort the numbers of $1 into even ones and odd ones
        """,
        body="""
        even = []
        odd = []
        for number in $1:
            if number % 2 == 0:
                even.append(number)
            else:
                odd.append(number)
        return even, odd
        """,
        cases=LISTS, answer=lambda xs: ([v for v in xs if not v & 1], [v for v in xs if v & 1]),
    ),
    function(
        "all_positive", names="all_positive are_all_positive check_all_positive every_positive is_all_positive", params=L,
        wordings="""
        [check] all [elements|numbers] [in|of] $1 are positive
        [check] [every|each] [element|number] [in|of] $1 is positive
        [check] $1 contains only positive [elements|numbers]
        [check] every number of $1 is [greater|larger] than [zero|0]
        """,
        held_out="""
        [check] there is nothing but positive numbers in $1
        are all numbers in $1 above zero?
        """,
        body="""
        for number in $1:
            if number <= 0:
                return False
        return True
        """,
        cases=LISTS, answer=lambda xs: min(xs, default=1) > 0,
    ),
    function(
        "range_of_list", names="range_of_list spread value_range max_minus_min list_range", params=L,
        wordings="""
        [return] the difference between the [largest] and the [smallest] [element] of $1
        [return] the maximum of $1 minus [its|the] minimum
        [return] the range of the [elements] in $1
        [return] how far the [largest|biggest] and [smallest|lowest] [elements] of $1 are apart
        """,
        held_out="""
        [return] by how much the maximum of $1 exceeds its minimum
        [return] the spread of the values in $1
        """,
        body="return max($1) - min($1)", cases=FILLED, answer=lambda xs: sorted(xs)[-1] - sorted(xs)[0],
    ),
    function(
        "replace_item", names="replace_item replace_all substitute swap_value replace_value", params="items, old, new|values, a, b|xs, before, after|data, source, target",
        wordings="""
        [return] $1 with [every|each] $2 replaced by $3
        replace [every|each|all] $2 in $1 by $3
        [return] a copy of $1 in which $3 stands for $2
        put $3 in place of [every|each] $2 in [the list|] $1
        """,
        held_out="""
        substitute $3 for $2 everywhere in $1
        [return] the list $1 after changing each $2 to $3
        """,
        body="return [$3 if element == $2 else element for element in $1]",
        cases=[([1, 2, 1], 1, 9), ([], 1, 2), ([5], 5, 6), ([3, 4], 7, 8)], answer=lambda xs, a, b: list(map({a: b}.get, xs, xs)),
    ),
    function(
        "moving_average", names="moving_average sliding_average rolling_mean rolling_average window_means", params="numbers, n|values, window|data, size|xs, k",
        wordings="""
        [return] the moving averages of $1 over $2 [elements]
        [return] the means of [all|the] windows of $2 [elements] in $1
        [return] the average of [every|each] $2 consecutive [elements] of $1
        moving average of $1 with a window of $2
        """,
        held_out="""
        slide a window of $2 [elements] over $1 and return the means
        [return] the rolling mean of $1 with window $2
        """,
        body="""
        result = []
        for i in range(len($1) - $2 + 1):
            result.append(sum($1[i:i + $2]) / $2)
        return result
        """,
        cases=[([1, 2, 3, 4], 2), ([5, 5, 5], 3), ([1, 2], 1), ([1], 2)], answer=lambda xs, k: [float(statistics.mean(w)) for w in zip(*(xs[i:] for i in range(k)), strict=False)],
    ),
]  # fmt: skip
