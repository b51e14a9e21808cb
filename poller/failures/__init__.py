"""Failures: how they are kept, told of, sent and counted.

`journal` has the values; the modules beside it but `delivery`, `courier`, `couriers`, `pages` and `upkeep` are pure.
"""
