"""Tools for testing the engine and its plug-ins, shipped as product: a virtual clock, fakes, a simulator, a contract suite a protocol."""
