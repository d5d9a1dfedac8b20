"""Bridges to other meta-learning libraries; each imports its library when it is first used."""
