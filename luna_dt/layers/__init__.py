"""Layers of vectors: proven by making some again (verify), or made here (embed)."""
