"""Redrive: dead letters that lie in queues, buckets, topics and files, taken into the journal, from where they are replayed.

fetched -> understood -> appended (durable, once) -> removed from where it was
             |-> left where it is, and named: no failure of this mapping, or its records are gone

An entry is what the mapping itself would have kept: same source identity, lane and record names, so the same id (law 13). That is what
makes taking idempotent: between append and remove a kill leaves a letter whose row is recognised. A copy (`queue-dlq`) that was not
replayed is made a failure, for its message is about to be removed. Of a FIFO queue the messages of a group come only when those before
them are gone (`DeadLetters.behind`): what is left there, and all of it in a dry run, hides what stands behind it, and that is said.
"""
