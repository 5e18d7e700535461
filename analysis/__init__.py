"""Statistics, figures, tables and reports from the records under results/."""
