"""Published sets of questions, judged and counted as their authors do."""
