"""A library that several machines share, kept on a Milvus server: vectors, records and captions, searched there."""
