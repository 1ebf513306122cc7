"""The math grader: it normalizes the text of an answer, parses its structure, and compares it exactly.

- `symbols` and `units` are tables.
- `text` finds the answer in a completion. `clean` normalizes its spelling, `words` interprets phrases in it, and
  `golds` repairs the golds of data sets.
- `parse` makes a tree of a formula. `arithmetic` and `value` compute with the tree.
- `number`, `quantity` and `leaf` compare answers that have no parts.
- `shape`, `relations` and `reading` divide an answer into parts. `sets`, `equations`, `choices` and `compare` compare
  the parts.
- `grader` returns the grade.
"""
