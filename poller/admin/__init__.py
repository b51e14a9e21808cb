"""How a running daemon is looked at and talked to: health and metrics over HTTP, commands over a Unix socket."""
