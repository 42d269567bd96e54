"""Measurements behind the documentation's numbers. Not part of the installed package."""
