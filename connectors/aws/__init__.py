"""AWS's services, as every connector to them asks: credentials, a connection, signatures, and what error codes mean. Vendor-free itself."""
