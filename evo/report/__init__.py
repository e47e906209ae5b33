"""Tables, pictures, pages and the live display."""
