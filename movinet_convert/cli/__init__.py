"""The command ``movinet-convert``: each command parses, calls the library and prints."""
