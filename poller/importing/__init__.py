"""What AWS's documents say of event source mappings, written as a configuration of ours. Pure: texts in, a text and remarks out.

`documents` (text -> plain values) -> `templates` and `listings` (-> functions and event source mappings with AWS's own property names; what
a template computes is computed by `intrinsics`) -> `functions` and `mappings` (-> keys of our file) -> `writing` (-> commented TOML).

A mapping is carried over whole or not at all: half of one would hand a function other records than it gets on AWS. What could not be
carried over is a remark.
"""
