"""Measuring: times, the memory limit, where a number was measured, how far two results are apart, whether two agree.

May import all other floors; none of them imports this one.
"""
