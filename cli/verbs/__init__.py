"""One module a verb, each imported only when its verb is named; ``command`` is what it offers."""
