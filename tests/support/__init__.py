"""What the tests of several packages share: real servers and processes in their own directories."""
