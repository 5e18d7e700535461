"""Published feedback sets as files for ``JsonlFeedback``.

One module per set: its docstring says what is kept and by which rule, and ``convert(source, report)`` yields the rows.
A new module in this folder is a new command of ``python -m kto_bench.feedback.importers``.
"""
