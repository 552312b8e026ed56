"""The items of `benchmarks.gpu`, each a function of a `Context`."""
