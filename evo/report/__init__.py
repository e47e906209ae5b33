"""Tables, pictures and the live display."""
