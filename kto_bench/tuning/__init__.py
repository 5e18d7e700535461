"""Fair tuning: every loss gets the same number of trials in its own space, and is chosen on validation prompts."""
