"""Where feedback comes from: one file and one YAML in ``conf/feedback/`` each."""
