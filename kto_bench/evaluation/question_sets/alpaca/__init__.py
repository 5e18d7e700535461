"""AlpacaEval 1 and 2: their questions, their annotators, their statistics and their published leaderboards."""
