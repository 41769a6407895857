"""Applications: posted over HTTP, each becoming one row and one event."""
