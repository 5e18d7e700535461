"""What a loss says about people: its implied value functions, and whether it is a human-aware loss (HALO)."""
