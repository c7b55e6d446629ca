"""The command line: translates arguments and errors; nothing else in psync prints or exits."""
