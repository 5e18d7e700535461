"""The embedded world: language, knowledge, gold utility and a simulated annotator."""
