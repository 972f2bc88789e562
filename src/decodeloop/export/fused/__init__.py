"""Whole decoders as graphs of fused operators: families as data, a description of a model, and one builder.

:mod:`families` says where a family's modules keep their parts, :mod:`describe` fills a description from a model,
:mod:`build` puts its graph together from :mod:`attention` and :mod:`nodes`. Nothing here is traced.
"""
