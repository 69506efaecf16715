"""One module a command: it parses options, calls one function of one layer and prints the result."""
