"""ControlNet maps: DT's, else the one that is kept (cache), else made now."""
