"""Finding similar pictures: what is asked (plan), by what vector (reference), where it lies (searcher), what is given (results)."""
