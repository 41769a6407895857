"""What all routes of the HTTP API share."""
