"""Redrive: dead letters that lie in queues, buckets, topics and files, taken into the journal, from where they are replayed.

fetched -> understood -> appended (durable, once) -> removed from where it was
             |-> left where it is, and named: no failure of this mapping, or its records are gone
"""
