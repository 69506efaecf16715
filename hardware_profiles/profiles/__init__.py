"""Hardware profiles as JSON, one GPU type each."""
