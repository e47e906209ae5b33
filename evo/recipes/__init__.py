"""The five systems as short compositions of the parts."""
