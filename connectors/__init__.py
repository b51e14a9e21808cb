"""The systems that are polled: one module per system. Nothing here is API; plug-ins import only from `poller`."""
