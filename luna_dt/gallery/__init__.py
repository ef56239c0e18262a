"""The gallery: what its page asks, answered over a Library (answers), and served as a page of its own (server)."""
