"""The settings of a run: their names, defaults, legal ranges and meanings, and the values that follow from them."""
