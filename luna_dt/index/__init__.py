"""Nearest neighbours over a layer's vectors, by one small protocol (base.py) and several engines."""
