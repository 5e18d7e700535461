"""Annotators that know nothing of the completions' world: one file and one YAML in ``conf/annotator/`` each."""
