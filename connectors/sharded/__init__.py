"""Streams whose shards are read with iterators: Kinesis and DynamoDB Streams. What they have in common, each thing once.

sequence.py   where a record stands in a shard, as a number
shards.py     what their clients tell: shards, records, refusals; iterators.py: the calls that both have
dialect.py    how they differ
listing.py    which shards there are
reader.py     one shard, read by position; slices.py: what one read brought; pace.py: when to read
lane.py       a lane over a shard, with aggregates taken apart or not
source.py     a stream as a source; probe.py: what `check --live` looks at
"""
