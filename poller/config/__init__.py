"""The configuration: one TOML file, read into one frozen tree, with errors that name file, line, TOML path and a suggestion."""

from poller.config.loading import load
from poller.config.secrets import Secret
from poller.config.tree import Address, Config, DestinationConfig, MappingConfig, handler_kind

__all__ = ["Address", "Config", "DestinationConfig", "MappingConfig", "Secret", "handler_kind", "load"]
