"""poller: AWS Lambda's event source mappings, on your own machines."""

__version__ = "0.1.0"

#: The version of the contract that plug-ins (connectors, handlers) are written against.
API = 1
