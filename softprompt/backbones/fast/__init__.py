"""Faster passes of frozen models: the packed engine of T5, which needs no padding, and 8-bit linear layers.

The packed engine gives the results of its reference. 8-bit layers approximate theirs.
"""
