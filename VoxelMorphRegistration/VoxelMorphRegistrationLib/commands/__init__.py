"""The command line: one file a command; `__main__` of the library dispatches to them."""
