"""What AWS's documents say of event source mappings, written as a configuration of ours. Pure: texts in, a text and remarks out.

`documents` (text -> plain values) -> `templates` and `listings` (-> functions and event source mappings with AWS's own property names; what
a template computes is computed by `intrinsics`) -> `functions` and `mappings` (-> keys of our file) -> `writing` (-> commented TOML).

A mapping is carried over whole or not at all: half of one would hand a function other records than it gets on AWS. What could not be
carried over is a remark.

Documents are a stranger's: PyYAML's safe loader in Python, for libyaml's overruns the stack; aliases are counted before anything is made
of them; a reference that comes back to itself is an error; texts and turns are bounded. What a mapping polls is the connectors' to say
(`Importing`); the rest is read with the connector's traits, which are AWS's defaults. Destinations, tags and metrics are what a mapping
may leave behind: without them the journal still has every failure.
"""
