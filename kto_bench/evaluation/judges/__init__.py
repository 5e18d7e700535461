"""Who says which completion is better, and how judges are asked."""
