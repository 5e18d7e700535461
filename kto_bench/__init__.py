"""kto_bench: experiments and benchmarks for alignment losses."""

__version__ = "0.1.0"
