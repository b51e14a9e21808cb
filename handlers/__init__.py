"""The ways to run a function: one module per way. Nothing here is API; plug-ins import only from `poller`."""
