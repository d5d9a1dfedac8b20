"""Recognise people from a few photographs."""
