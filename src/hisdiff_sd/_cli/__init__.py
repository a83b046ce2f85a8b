"""The commands, a family per file; each is thin over the API."""
